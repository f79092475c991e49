#include "cli/early_end.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

#include "common/log.h"

namespace msa::cli {

EarlyEnd::EarlyEnd(const sigset_t& signals)
    : signals_(signals),
      arrivals_(signalfd(-1, &signals, SFD_CLOEXEC)),
      over_(eventfd(0, EFD_CLOEXEC)) {
  if (arrivals_ >= 0 && over_ >= 0) thread_ = std::thread([this] { Watch(); });
}

EarlyEnd::~EarlyEnd() {
  if (thread_.joinable()) {
    eventfd_write(over_, 1);
    thread_.join();
  }
  close(arrivals_);
  close(over_);
}

void EarlyEnd::Watch() const {
  pollfd waited[2] = {{arrivals_, POLLIN, 0}, {over_, POLLIN, 0}};
  while (poll(waited, 2, -1) < 0 && errno == EINTR) {
  }
  signalfd_siginfo arrived;
  if (waited[1].revents != 0 || read(arrivals_, &arrived, sizeof(arrived)) != sizeof(arrived))
    return;
  const int number = static_cast<int>(arrived.ssi_signo);
  Log(LogLevel::kInfo, "ended before it served",
      {{"signal", number == SIGTERM ? "SIGTERM" : "SIGINT"}});
  signal(number, SIG_DFL);  // a shell starts what is in its background with SIGINT ignored
  pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
  raise(number);
  _exit(128 + number);  // process 1 of a container, which no signal ends by itself
}

}  // namespace msa::cli

#include "cli/standard_input.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <ios>

#include "common/check.h"

namespace msa::cli {

StandardInput::StandardInput(int fd) : fd_(fd), buffer_(64 << 10) {
  MSA_CHECK(pipe2(wake_, O_CLOEXEC) == 0);
}

StandardInput::~StandardInput() {
  close(wake_[0]);
  close(wake_[1]);
}

void StandardInput::Stop() { [[maybe_unused]] const ssize_t written = write(wake_[1], "", 1); }

StandardInput::int_type StandardInput::underflow() {
  while (true) {
    pollfd waited[2] = {{fd_, POLLIN, 0}, {wake_[0], POLLIN, 0}};
    const int ready = poll(waited, 2, -1);
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0 || waited[1].revents != 0) return traits_type::eof();
    const ssize_t got = read(fd_, buffer_.data(), buffer_.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    // Its stream turns bad: no end of what was to be read.
    if (got < 0) throw std::ios_base::failure("standard input cannot be read");
    if (got == 0) return traits_type::eof();
    setg(buffer_.data(), buffer_.data(), buffer_.data() + got);
    return traits_type::to_int_type(*gptr());
  }
}

}  // namespace msa::cli

// Lets signals end a server that does not serve yet: while it loads a model or asks for shards they
// are held back for who will wait for them, and nobody does.
#ifndef MSA_CLI_EARLY_END_H_
#define MSA_CLI_EARLY_END_H_

#include <signal.h>

#include <thread>

namespace msa::cli {

// While it lives, one of `signals` ends the process as if it had not been held back. Nothing is
// tidied up: what was acknowledged is safe at every instant. One that comes later is held back
// again. REQUIRES: this thread and all others hold `signals` back.
class EarlyEnd {
 public:
  explicit EarlyEnd(const sigset_t& signals);
  ~EarlyEnd();
  EarlyEnd(const EarlyEnd&) = delete;
  EarlyEnd& operator=(const EarlyEnd&) = delete;

 private:
  void Watch() const;

  const sigset_t signals_;
  int arrivals_ = -1;  // a signalfd
  int over_ = -1;      // an eventfd, readable once nothing is watched any more
  std::thread thread_;
};

}  // namespace msa::cli

#endif  // MSA_CLI_EARLY_END_H_

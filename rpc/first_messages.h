// A limit on the time until a call's first message is whole. What has come of it is held meanwhile,
// and no thread that could give up: neither a deadline nor a queue's limit counts yet.
#ifndef MSA_RPC_FIRST_MESSAGES_H_
#define MSA_RPC_FIRST_MESSAGES_H_

#include <list>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace msa::rpc {

// Thread-safe.
class FirstMessages {
 public:
  class Call {
   public:
    virtual ~Call() = default;
    // false: the message has come meanwhile. Else Late follows. Must not block.
    virtual bool GiveUp() = 0;
    // Ends the call. The last use of it.
    virtual void Late() = 0;
  };
  using Place = std::list<std::pair<absl::Time, Call*>>::iterator;

  // A call is given up between `within` and a quarter more after it began.
  explicit FirstMessages(absl::Duration within);
  // REQUIRES: no call is awaited.
  ~FirstMessages();

  // `call` is borrowed until Arrived or its Late.
  Place Await(Call* call);
  // Not for a call that was given up.
  void Arrived(Place place);

  absl::Duration within() const { return within_; }

 private:
  void Watch();
  std::list<Call*> GiveUp(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration within_;
  absl::Mutex mutex_;
  std::list<std::pair<absl::Time, Call*>> awaited_ ABSL_GUARDED_BY(mutex_);  // oldest first
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watcher_;
};

}  // namespace msa::rpc

#endif  // MSA_RPC_FIRST_MESSAGES_H_

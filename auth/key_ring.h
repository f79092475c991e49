// The keys that a server knows, from a file that may change while it serves.
#ifndef MSA_AUTH_KEY_RING_H_
#define MSA_AUTH_KEY_RING_H_

#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "auth/api_key.h"

namespace msa::auth {

// Thread-safe.
class KeyRing {
 public:
  // What ReadKeys says. From then on a thread looks at the file every `interval`.
  static absl::StatusOr<std::unique_ptr<KeyRing>> Open(const std::string& path,
                                                       absl::Duration interval = absl::Seconds(1));
  ~KeyRing();

  // The key that was presented, null for an unknown one. As long whichever key it is, or none.
  std::shared_ptr<const ApiKey> Find(std::string_view secret) const;

  // Takes over what the file holds now if it is in order, else keeps the keys before. A line in the
  // log when either is news.
  void Look();

 private:
  using Keys = std::vector<ApiKey>;
  explicit KeyRing(std::string path) : path_(std::move(path)) {}
  void Watch(absl::Duration interval);
  absl::Status TakeOver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(looking_);

  const std::string path_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const Keys> keys_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Mutex looking_;                         // one at a time
  std::string text_ ABSL_GUARDED_BY(looking_);  // that the keys were read from; empty: none yet
  std::string complaint_ ABSL_GUARDED_BY(looking_);
  std::thread watcher_;
};

}  // namespace msa::auth

#endif  // MSA_AUTH_KEY_RING_H_

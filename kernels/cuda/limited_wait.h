// How long the processor waits for a GPU. It asks an event and never the driver to wait: that has
// no limit, and cudaEventQuery answers even while other calls of a GPU that hangs do not.
#ifndef MSA_KERNELS_CUDA_LIMITED_WAIT_H_
#define MSA_KERNELS_CUDA_LIMITED_WAIT_H_

#include "absl/time/time.h"

namespace msa::kernels::cuda {

// Of any wait, the work asked for before included. Well over the longest pass.
inline constexpr absl::Duration kHangLimit = absl::Seconds(60);

enum class Waited { kDone, kGivenUp, kLate };

// Asks `done` again and again, with a `pause` in between, for `limit` by `now`. Looks now and then
// whether to `give_up`: somebody else knows that it will never be done.
template <typename Done, typename GiveUp, typename Pause, typename Now>
Waited AwaitWithin(absl::Duration limit, Done done, GiveUp give_up, Pause pause, Now now) {
  constexpr int kAsksALook = 64;  // what it looks at costs as much as a question
  absl::Time until = absl::InfiniteFuture();
  for (int asked = 0; !done(); ++asked) {
    if (asked % kAsksALook == 0) {
      if (give_up()) return Waited::kGivenUp;
      const absl::Time time = now();
      if (time >= until) return Waited::kLate;
      if (asked == 0) until = time + limit;
    }
    pause();
  }
  return Waited::kDone;
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_LIMITED_WAIT_H_

// Several backends of one kind as one home of a bank's routing keys: each holds some of the
// segments, a pass runs on all of them at once, and what each found best becomes one list. The
// answer is that of one backend, to the bit: a score does not depend on where a chunk lies
// (types.h), and the order of results on nothing but scores and references.
//
// Keys are allocated from a member (Backend::member), and KeySegment::member says which. Memory
// that the group itself gives is the processor's, with one exception: scores and errors that
// ScoreBank writes there, and means of such scores, are tickets. They stay with the members that
// made them, as long as the buffer lives, and only what is asked of them moves: TopIndices and
// ListBest take k parts a member, Copy to the processor's memory a whole row. Rows are taken as
// they were written, never parts of one.
//
// Operations that have nothing to do with routing are the first member's.
#ifndef MSA_KERNELS_GROUP_BACKEND_H_
#define MSA_KERNELS_GROUP_BACKEND_H_

#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/collective.h"

namespace msa::kernels {

// A process's backends: one a GPU, and what a bank lies on.
class BackendSet {
 public:
  // `gpus`, at least one, are numbers of `cuda`'s devices, each once. Errors are MakeBackend's;
  // INVALID_ARGUMENT for several with another backend, FAILED_PRECONDITION when they cannot be
  // joined.
  static absl::StatusOr<BackendSet> Make(std::string_view name, const BackendOptions& options,
                                         const std::vector<int>& gpus);

  int size() const { return static_cast<int>(members_.size()); }
  const Backend& member(int index) const { return *members_[index]; }
  // All of them together.
  const Backend& memory() const { return group_ == nullptr ? *members_[0] : *group_; }

 private:
  std::vector<std::unique_ptr<Backend>> members_;
  std::unique_ptr<Backend> group_;  // of several; goes first
};

// Members, at least one, are borrowed. Without a collective the processor copies what each found.
std::unique_ptr<Backend> MakeGroupBackend(std::vector<const Backend*> members,
                                          std::unique_ptr<Collective> collective);

}  // namespace msa::kernels

#endif  // MSA_KERNELS_GROUP_BACKEND_H_

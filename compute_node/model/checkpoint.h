// The *.safetensors files of a checkpoint or an adapter as one set of tensors, and the fingerprint
// of a model.
#ifndef MSA_COMPUTE_NODE_MODEL_CHECKPOINT_H_
#define MSA_COMPUTE_NODE_MODEL_CHECKPOINT_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "common/safetensors.h"

struct XXH3_state_s;

namespace msa::compute_node {

class Checkpoint {
 public:
  // Adds the tensors of one file; of two of the same name the earlier stays. Errors as
  // SafetensorsFile::Open.
  absl::Status AddFile(const std::string& path);
  // Adds model.safetensors of a folder, or the files that model.safetensors.index.json names.
  absl::Status AddFolder(const std::string& dir);

  const TensorView* Find(std::string_view name) const;  // null: none of that name
  const std::map<std::string_view, const TensorView*>& tensors() const { return tensors_; }
  bool empty() const { return files_.empty(); }

 private:
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string_view, const TensorView*> tensors_;
};

// A hash of 128 bits over everything that decides what a block holds, in a fixed order.
class Fingerprint {
 public:
  Fingerprint();
  ~Fingerprint();

  void Add(std::string_view bytes);
  // Name, type, shape and bytes of every tensor, in the order of names: those up to and with the
  // ones that begin with `prefix`, as far as this was not done before. Who then reads these finds
  // them in memory: a checkpoint is fetched from its disk once.
  void AddThrough(const Checkpoint& checkpoint, std::string_view prefix);
  // What AddThrough left.
  void AddRest(const Checkpoint& checkpoint);

  std::string Hex() const;  // 32 digits

 private:
  void AddTensor(std::string_view name, const TensorView& view);

  XXH3_state_s* const state_;
  std::map<const Checkpoint*, std::string_view> last_;  // the last name that was added
};

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_CHECKPOINT_H_

#include "memory_node/segment_codes.h"

#include <utility>

#include "common/status_macros.h"
#include "kernels/coarse_codes.h"

namespace msa::memory_node {

absl::StatusOr<std::shared_ptr<SegmentCodes>> SegmentCodes::Make(const kernels::Backend& backend,
                                                                 int num_layers, int64_t key_width,
                                                                 int64_t capacity_chunks) {
  using Purpose = kernels::Backend::Purpose;
  std::shared_ptr<SegmentCodes> made(new SegmentCodes(backend, key_width));
  for (int layer = 0; layer < num_layers; ++layer) {
    MSA_ASSIGN_OR_RETURN(
        kernels::Buffer codes,
        backend.Allocate(capacity_chunks * kernels::CodeBytes(key_width), Purpose::kResident));
    MSA_ASSIGN_OR_RETURN(kernels::Buffer scales,
                         backend.Allocate(capacity_chunks * sizeof(float), Purpose::kResident));
    made->codes_.push_back(std::move(codes));
    made->scales_.push_back(std::move(scales));
  }
  return made;
}

void SegmentCodes::Encode(int layer_index, const kernels::KeySegment& keys, int64_t first_chunk) {
  backend_.EncodeCoarse(keys, key_width_, first_chunk, codes_[layer_index].as<uint8_t>(),
                        scales_[layer_index].as<float>());
}

void SegmentCodes::AddTo(int layer_index, kernels::KeySegment* keys) const {
  keys->codes = codes_[layer_index].as<uint8_t>();
  keys->code_scales = scales_[layer_index].as<float>();
}

}  // namespace msa::memory_node

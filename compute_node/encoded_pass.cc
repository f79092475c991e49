#include "compute_node/encoded_pass.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "common/block_layout.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::compute_node {
namespace {

constexpr size_t kAlign = 256;

size_t ScaleBytes(DType dtype, int64_t scales) {
  return HasScales(dtype) ? scales * sizeof(float) : 0;
}

}  // namespace

PoolingSpec PoolingSpec::Of(const rpc::BankSpec& bank) {
  return {bank.routing, bank.routing_chunk_tokens, bank.content_chunk_tokens, bank.routing_dtype,
          bank.content_dtype};
}

bool PoolingSpec::operator==(const PoolingSpec& other) const {
  return routing.num_kv_heads == other.routing.num_kv_heads &&
         routing.head_dim == other.routing.head_dim &&
         routing_chunk_tokens == other.routing_chunk_tokens &&
         content_chunk_tokens == other.content_chunk_tokens &&
         routing_dtype == other.routing_dtype && content_dtype == other.content_dtype;
}

EncodedPass::Pooled EncodedPass::Cut(absl::Span<const int64_t> part_tokens, int64_t chunk_tokens) {
  Pooled pooled;
  pooled.part_begin.push_back(0);
  pooled.chunk_begin.push_back(0);
  int64_t row = 0;
  for (const int64_t tokens : part_tokens) {
    const int64_t end = row + tokens;
    while (row < end) {
      row = std::min(row + chunk_tokens, end);
      pooled.chunk_begin.push_back(static_cast<int32_t>(row));
    }
    pooled.part_begin.push_back(static_cast<int64_t>(pooled.chunk_begin.size()) - 1);
  }
  return pooled;
}

void EncodedPass::LayOut() {
  const int64_t heads = spec_.routing.num_kv_heads;
  const int64_t width = heads * spec_.routing.head_dim;
  size_t next = 0;
  const auto take = [&next](size_t bytes) {
    const size_t at = next;
    next = (next + bytes + kAlign - 1) / kAlign * kAlign;
    return at;
  };
  const int64_t keys = routing_.chunks();
  const int64_t rows = content_.chunks();
  const size_t content_bytes = rows * width * DTypeBytes(spec_.content_dtype);
  take(keys * width * DTypeBytes(spec_.routing_dtype));
  key_scales_ = take(ScaleBytes(spec_.routing_dtype, keys));
  k_ = take(content_bytes);
  k_scales_ = take(ScaleBytes(spec_.content_dtype, rows * heads));
  v_ = take(content_bytes);
  v_scales_ = take(ScaleBytes(spec_.content_dtype, rows * heads));
  layer_bytes_ = next;
}

absl::StatusOr<std::shared_ptr<EncodedPass>> EncodedPass::Make(
    const kernels::Backend& backend, const PoolingSpec& spec, bool cosine,
    absl::Span<const int64_t> part_tokens, int num_layers) {
  std::shared_ptr<EncodedPass> pass(new EncodedPass(backend, spec, cosine, num_layers));
  pass->routing_ = Cut(part_tokens, spec.routing_chunk_tokens);
  pass->content_ = Cut(part_tokens, spec.content_chunk_tokens);
  pass->each_key_.resize(pass->routing_.chunk_begin.size());
  std::iota(pass->each_key_.begin(), pass->each_key_.end(), 0);
  pass->LayOut();
  MSA_ASSIGN_OR_RETURN(pass->computed_, backend.Allocate(pass->layer_bytes_ * num_layers));
  return pass;
}

void EncodedPass::Pool(const float* rows, absl::Span<const int32_t> chunk_begin, bool routing,
                       size_t offset, size_t scales) {
  char* layer = computed_.as<char>(next_layer_ * layer_bytes_);
  kernels::PoolPackedArgs args;
  args.x = rows;
  args.chunk_begin = chunk_begin;
  args.num_heads = spec_.routing.num_kv_heads;
  args.head_dim = spec_.routing.head_dim;
  args.normalize = routing && cosine_;
  args.dtype = routing ? spec_.routing_dtype : spec_.content_dtype;
  args.out = layer + offset;
  args.scales = reinterpret_cast<float*>(layer + scales);
  args.scale_per_head = !routing;
  backend_.PoolPacked(args);
}

void EncodedPass::AddLayer(const float* router_keys, const float* k, const float* v) {
  Pool(router_keys, each_key_, true, 0, key_scales_);
  Pool(k, content_.chunk_begin, false, k_, k_scales_);
  Pool(v, content_.chunk_begin, false, v_, v_scales_);
  ++next_layer_;
}

absl::Status EncodedPass::StartFetch() {
  if (backend_.memory_is_host()) {
    fetched_ = std::move(computed_);
    return absl::OkStatus();
  }
  const size_t bytes = layer_bytes_ * num_layers_;
  fetched_ = backend_.StartFetch(computed_.data(), bytes);
  if (fetched_.data() != nullptr) {
    fetched_mark_ = backend_.MakeMark();
  } else {
    fetched_ = kernels::AllocateHost(bytes);
    if (fetched_.data() == nullptr) {
      return absl::ResourceExhaustedError(StrCat("no memory for ", bytes, " bytes of documents"));
    }
    backend_.Copy(fetched_.data(), computed_.data(), bytes);
  }
  computed_ = kernels::Buffer();
  return absl::OkStatus();
}

std::string EncodedPass::Routing(int layer, size_t part) const {
  const char* from = Layer(layer);
  const int64_t begin = routing_.part_begin[part];
  const int64_t chunks = routing_.part_begin[part + 1] - begin;
  const int64_t width = spec_.routing.key_width();
  const RoutingBlockLayout layout(spec_.routing_dtype, chunks, width);
  const size_t row_bytes = width * DTypeBytes(spec_.routing_dtype);
  std::string block(layout.size, '\0');
  std::memcpy(block.data(), from + begin * row_bytes, chunks * row_bytes);
  std::memcpy(block.data() + layout.scales_offset, from + key_scales_ + begin * sizeof(float),
              ScaleBytes(spec_.routing_dtype, chunks));
  return block;
}

std::string EncodedPass::Content(int layer, size_t part) const {
  const char* from = Layer(layer);
  const int64_t heads = spec_.routing.num_kv_heads;
  const int64_t begin = content_.part_begin[part];
  const int64_t chunks = content_.part_begin[part + 1] - begin;
  const ContentBlockLayout layout(spec_.content_dtype, chunks, heads, spec_.routing.head_dim);
  const size_t row_bytes = heads * spec_.routing.head_dim * DTypeBytes(spec_.content_dtype);
  const size_t scale_bytes = ScaleBytes(spec_.content_dtype, chunks * heads);
  const size_t first_scale = begin * heads * sizeof(float);
  std::string block(layout.size, '\0');
  std::memcpy(block.data(), from + k_ + begin * row_bytes, chunks * row_bytes);
  std::memcpy(block.data() + layout.v_offset, from + v_ + begin * row_bytes, chunks * row_bytes);
  std::memcpy(block.data() + layout.k_scales_offset, from + k_scales_ + first_scale, scale_bytes);
  std::memcpy(block.data() + layout.v_scales_offset, from + v_scales_ + first_scale, scale_bytes);
  return block;
}

}  // namespace msa::compute_node

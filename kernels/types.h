// Argument types of the kernels, and the semantics every backend shares. Reductions and the order
// of results: common/routing.h. Plain data; every pointer is borrowed for the duration of the call
// that takes it. Row-major, no padding.
#ifndef MSA_KERNELS_TYPES_H_
#define MSA_KERNELS_TYPES_H_

#include <cstdint>

#include "absl/types/span.h"
#include "common/dtype.h"
#include "common/routing.h"

namespace msa::kernels {

// Routing keys of consecutive parts, in one precision. Where the dtype HasScales (int8, fp8):
// key = scales[chunk] · keys[chunk, :]. An fp8 step that is NaN is not a key: Quantize makes none,
// memory nodes refuse it, and what a score then is depends on the backend.
struct KeySegment {
  const void* keys = nullptr;     // [num_chunks, key_width] of `dtype`, any but kFloat16
  const float* scales = nullptr;  // [num_chunks], where HasScales(dtype)
  DType dtype = DType::kFloat32;
  absl::Span<const int64_t>
      part_begin;  // [num_parts + 1]: part p owns chunks part_begin[p] … part_begin[p+1]-1
  int64_t num_chunks = -1;  // part_begin.back(); -1: look there
  int member = 0;           // the backend of a group in whose memory it lies
  // No key's L2 norm, scale included, is larger than this (Backend::RaiseMaxNorm); null: unknown.
  const float* max_norm = nullptr;
  // Codes of the keys (kernels/coarse_codes.h) for a coarse scan; null: none.
  const uint8_t* codes = nullptr;      // [num_chunks, key_width / 2]
  const float* code_scales = nullptr;  // [num_chunks]

  int64_t num_parts() const { return static_cast<int64_t>(part_begin.size()) - 1; }
  // num_chunks, looked up where it was not given.
  int64_t chunks() const { return num_chunks >= 0 ? num_chunks : part_begin.back(); }
};

// Several questions share one pass over the keys. A question's scores do not depend, to the bit, on
// which others share the pass, on the tile a chunk falls in, or on the number of threads.
struct ScoreArgs {
  RoutingShape shape;
  KeySegment segment;
  const float* queries = nullptr;         // [query_begin.back(), query_width]
  absl::Span<const int32_t> query_begin;  // [num_questions + 1], at least one row a question
  float* scores = nullptr;  // out [num_questions, num_parts]; kNoScore for a part without chunks
};

// How near the scores of a pass have to be. kExact: what is said of ScoreArgs. kBounded: a backend
// may save time by rounding what it multiplies, and says in `errors` how far a score can be off:
// enough to prove which parts are best, whose exact scores ScoreListed gives. kLoose: the same,
// with errors of up to some hundredths of the norms, which tell the best of one layer, and of means
// over layers only where layers agree. kCoarse: the scores of the segments' codes, for questions
// rounded to 8 bits or better; `errors` say that nothing is known. Like exact scores, a question's
// do not depend on its company or on where a chunk lies.
enum class ScanMode : uint8_t { kExact = 1, kBounded = 2, kCoarse = 3, kLoose = 4 };

constexpr bool MayRound(ScanMode mode) {
  return mode == ScanMode::kBounded || mode == ScanMode::kLoose;
}

// The same over several segments of one precision.
struct ScoreBankArgs {
  RoutingShape shape;
  absl::Span<const KeySegment> segments;
  const float* queries = nullptr;
  absl::Span<const int32_t> query_begin;
  float* scores = nullptr;  // out [num_questions, parts of all segments], in the segments' order
  ScanMode mode = ScanMode::kExact;  // kCoarse: every segment has codes
  // out [num_questions], may be null unless the scan may round: no score of the question is further
  // from the exact one than this. 0: they are exact, to the bit. NaN or infinite: nothing is known.
  float* errors = nullptr;
};

// Exact scores of some parts for one question, to the bit those of ScoreBank.
struct ScoreListedArgs {
  RoutingShape shape;
  absl::Span<const KeySegment> segments;  // as ScoreBank had them
  const float* queries = nullptr;         // [num_rows, query_width]
  int32_t num_rows = 0;
  absl::Span<const int32_t> parts;  // columns of ScoreBank's scores, in the processor's memory
  float* scores = nullptr;          // out [parts.size()]
};

// The best parts of one question by the scores of a pass, with their exact scores.
struct ListBestArgs {
  RoutingShape shape;
  absl::Span<const KeySegment> segments;  // as ScoreBank had them
  const float* queries = nullptr;         // [num_rows, query_width]
  int32_t num_rows = 0;
  const float* scores = nullptr;  // [parts of all segments]: the question's, as ScoreBank left them
  const float* error = nullptr;   // the same of its error; null: not asked for
  int k = 0;                      // 1 … 1,024
};

// K and V rows of a document's chunks, of the template prefix, or of the local context.
// Where the dtype HasScales: k[t, h, :] = k_scales[t, h] · k; likewise v.
struct KvView {
  const void* k = nullptr;          // [num_tokens, num_kv_heads, head_dim] of `dtype`
  const void* v = nullptr;          // same shape
  const float* k_scales = nullptr;  // [num_tokens, num_kv_heads], where HasScales(dtype)
  const float* v_scales = nullptr;
  DType dtype = DType::kFloat32;
  int64_t num_tokens = 0;
};

// Consecutive rows of a batch that a sequence keeps, after one another from first_row on.
struct AppendArgs {
  void* k = nullptr;  // out [rows, width] of `dtype`
  void* v = nullptr;  // out [rows, width]
  int64_t first_row = 0;
  int64_t rows = 0;
  DType dtype = DType::kFloat32;  // or kBFloat16: rounded to nearest even
};

// Attention of consecutive query tokens of one sequence over [blocks… ; local], softmax over all of
// it, grouped-query: query head h reads KV head h / (num_q_heads / num_kv_heads).
struct AttentionArgs {
  const float* q = nullptr;  // [num_queries, num_q_heads, head_dim]
  float* out = nullptr;  // [num_queries, num_q_heads, head_dim]; zeros where a query sees nothing
  int num_queries = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float scale = 1.0f;
  absl::Span<const KvView> blocks;  // every query sees all rows of every block
  KvView local;                     // the sequence's own rows, oldest first
  // Query i sees local rows 0 … first_visible + i when causal (its own row is local row
  // first_visible + i), else all.
  int64_t first_visible = 0;
  bool causal = true;
};

// Packed projections of one layer to attention's inputs.
struct SplitQkvArgs {
  const float* qkv = nullptr;  // [rows, (num_q_heads + 2 · num_kv_heads) · head_dim]: q, k, v
  int64_t rows = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  const float* q_norm = nullptr;  // [head_dim]: per-head RmsNorm before the rotation; null: none
  const float* k_norm = nullptr;
  float eps = 0.0f;
  absl::Span<const int32_t> positions;  // [rows]
  const float* inv_freq = nullptr;      // [head_dim / 2]
  float* q = nullptr;                   // out [rows, num_q_heads, head_dim]
  float* k = nullptr;                   // out [rows, num_kv_heads, head_dim]
  float* v = nullptr;                   // out [rows, num_kv_heads, head_dim]
};

// Rows of documents, one behind another, to the means of their chunks (NUMERICS "Chunk pooling":
// each chunk summed by itself), each head L2-normalised where asked for, in some precision.
struct PoolPackedArgs {
  const float* x = nullptr;               // [rows, num_heads · head_dim]
  absl::Span<const int32_t> chunk_begin;  // [num_chunks + 1]: chunk c has rows chunk_begin[c] …
                                          // chunk_begin[c + 1] - 1, at least one
  int num_heads = 0;
  int head_dim = 0;
  bool normalize = false;
  DType dtype = DType::kFloat32;
  void* out = nullptr;  // [num_chunks, num_heads · head_dim] of dtype
  // Scaled types only: one scale a chunk and head, [num_chunks, num_heads], or one a chunk.
  float* scales = nullptr;
  bool scale_per_head = false;
};

// What becomes of a product: it is the result, is added to the result, or its first half of columns
// are gates of the second: silu(gate) · up.
enum class LinearThen : uint8_t { kStore, kAdd, kSiluMul };

// A dense product with what comes before and after it in a decoder layer.
struct LinearArgs {
  const void* x = nullptr;  // [rows, in_features] of x_dtype
  DType x_dtype = DType::kFloat32;
  int64_t rows = 0;
  const float* norm =
      nullptr;  // [in_features]: RmsNorm of the rows of x first (float32); null: none
  float eps = 0.0f;
  const float* bias = nullptr;  // [out_features]; null: none
  LinearThen then = LinearThen::kStore;
  void* y = nullptr;  // out [rows, out_features], kSiluMul: [rows, out_features / 2]
  // kBFloat16, and so x_dtype: where LinearWeights::rounds_activations says so; y with kSiluMul
  // only.
  DType y_dtype = DType::kFloat32;
  // Room for what lies between, of any content afterwards: [rows, in_features] with a norm, holding
  // its result when keep_normed; [rows, out_features] unless kStore.
  float* normed = nullptr;
  bool keep_normed = false;
  float* product = nullptr;
};

// How a weight matrix is held. kBFloat16 and kInt8 round the weights once. Sums are float32, and so
// are activations but where Backend::rounds_activations.
enum class WeightFormat : uint8_t { kFloat32 = 1, kBFloat16 = 2, kInt8 = 3 };

}  // namespace msa::kernels

#endif  // MSA_KERNELS_TYPES_H_

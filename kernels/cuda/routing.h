// The routing pass on the GPU: scores of every part of a list of segments, for several questions at
// once, in one read of the keys. Reductions and kNoScore: common/routing.h. What is computed and
// why it is exact: docs/numerics.md.
//
// Pointers are device memory unless named host_. Launchers neither allocate nor synchronise; they
// may be captured into a graph. Thread-safe: no state outside the arguments. They return the
// error of the launch, cudaErrorInvalidValue for a shape that does not fit.
#ifndef MSA_KERNELS_CUDA_ROUTING_H_
#define MSA_KERNELS_CUDA_ROUTING_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/routing.h"

namespace msa::kernels::cuda {

// How routing keys are stored. kInt8 and kFloat8 (e4m3): key = scales[chunk] · stored value, with
// scales that are not negative (or null: all 1). kInt4: the codes of kernels/cuda/coarse.h.
enum class KeyFormat : uint8_t { kFloat32 = 1, kBFloat16 = 2, kInt8 = 3, kFloat8 = 4, kInt4 = 5 };

// How much of a float32 question the tensor cores see. Float32 keys use all of it either way.
//   format            kSplit                    kSingle
//   bf16 keys         bf16 + bf16  (16 bits)    bf16 (8 bits)
//   fp8 keys          fp16 + fp16  (22 bits)    fp16 (11 bits)
//   int8 keys         3 × int8     (23 bits)    2 × int8 (15 bits below the row's largest element)
//   int4 keys         2 × int8     (15 bits)    int8 (7 bits)
// Sums are float32, exact integers for int8 and int4. kThroughput is for hundreds of rows on
// sm_90a: what kSingle sees, in warpgroup products; elsewhere it is kSingle. kOnePiece: int8 keys
// on sm_90a meet one piece (7 bits), for half the products; elsewhere it is kThroughput.
enum class QueryPrecision : uint8_t { kSplit = 1, kSingle = 2, kThroughput = 3, kOnePiece = 4 };

// Keys of consecutive parts. An array of these lies in device memory, one for each segment.
struct RoutingSegment {
  const void* keys = nullptr;           // [num_chunks, key_width], 16-byte aligned
  const float* scales = nullptr;        // [num_chunks] or null
  const int64_t* part_begin = nullptr;  // [num_parts + 1]: part p owns chunks part_begin[p] …
  int64_t num_parts = 0;
  int64_t num_chunks = 0;
  int64_t first_part = 0;           // column of part 0 in the scores
  int64_t first_chunk = 0;          // chunks in the segments before this one: NumberChunks fills it
  const float* max_norm = nullptr;  // as in KeySegment; ScoreErrors needs it
};

// Fills first_chunk of segments on the host, before they are copied to the device. Returns the
// number of chunks of all.
int64_t NumberChunks(RoutingSegment* host_segments, int num_segments);

// What a pass is made of. Segments share one format. A question's scores do not depend, to the
// bit, on the other questions, on where a chunk lies, or on how chunks are grouped into parts.
struct RoutingArgs {
  RoutingShape shape;
  KeyFormat format = KeyFormat::kBFloat16;
  QueryPrecision precision = QueryPrecision::kSplit;
  const RoutingSegment* segments = nullptr;  // [num_segments]
  int num_segments = 0;
  int64_t num_chunks = 0;                     // of all segments
  int64_t num_parts = 0;                      // columns of the scores
  const float* queries = nullptr;             // [host_query_begin[num_questions], query_width]
  const int32_t* host_query_begin = nullptr;  // [num_questions + 1], at least one row a question
  int num_questions = 0;
  float* scores = nullptr;  // out [num_questions, num_parts]
};

// Whether ScoreParts goes by the matrix units: mean heads, max chunks, scale >= 0 and a width of a
// multiple of 16 (kInt4: 64) up to 4,096.
bool HasFastPath(const RoutingArgs& args);

// Columns, of 8 rows of one question or fewer, that the questions make; ScoreParts reads the keys
// once for as many of them as its cost says.
int64_t NumColumnTiles(const RoutingArgs& args);

// Bytes of workspace, 256-byte aligned, that ScoreParts needs for these shape, format, precision
// and questions (no other field is read). 129 KiB at a width of 1,024, unless kThroughput,
// kOnePiece or keys of 8 bits on sm_90a: up to 257 KiB for every 64 rows, of fp8 keys 513 for every
// 128.
size_t RoutingWorkspaceBytes(const RoutingArgs& args);

// Scores of every part; kNoScore for a part without chunks. Cost: on the fast path one read of the
// keys for every 32 rows of questions (each padded to 8; 64 rows with kSingle; 4,096 with
// kThroughput, 2,048 of int8 keys; 4,096 with kOnePiece; on sm_90a with kSplit 1,024 of int8 keys,
// 2,048 of fp8 keys);
// otherwise the general path.
cudaError_t ScoreParts(const RoutingArgs& args, void* workspace, cudaStream_t stream);

// The general path by itself: any reduction, any width, no tensor cores, one read of the keys a
// question.
cudaError_t ScorePartsGeneral(const RoutingArgs& args, cudaStream_t stream);

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ROUTING_H_

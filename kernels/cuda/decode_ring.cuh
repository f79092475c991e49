// The ring of the decode kernel: tiles of 16 tokens in a warp's own part of shared memory, filled
// by asynchronous copies from rows of any type in any view.
#ifndef MSA_KERNELS_CUDA_DECODE_RING_CUH_
#define MSA_KERNELS_CUDA_DECODE_RING_CUH_

#include "kernels/cuda/attention_device.cuh"
#include "kernels/cuda/mma.cuh"

namespace msa::kernels::cuda {

inline constexpr int kDecodeTileTokens = 16;

// kBytes: room for an element in a row, 2 or 4. Where it is 2, float32 rows are rounded on the way.
template <int kDimension, int kBytes>
struct DecodeTile {
  static constexpr int kDim = kDimension;
  static constexpr int kElementBytes = kBytes;
  static constexpr int kRowBytes = kDim * kBytes;
  static constexpr int kMatrixBytes = kDecodeTileTokens * kRowBytes;
};

// What a tile needs before it is multiplied: nothing, or all rows from one type, or each from its
// own.
enum class Conversion : uint32_t {
  kNone = 0,
  kFloat32 = static_cast<int>(ElementType::kFloat32),
  kInt8 = static_cast<int>(ElementType::kInt8),
  kFloat8E4M3 = static_cast<int>(ElementType::kFloat8E4M3),
  kMixed = 255,
};

// One tile of one warp in shared memory.
template <class Tile>
struct alignas(16) Stage {
  uint8_t k[Tile::kMatrixBytes];
  uint8_t v[Tile::kMatrixBytes];
  float k_scales[kDecodeTileTokens];
  float v_scales[kDecodeTileTokens];
  ElementType types[kDecodeTileTokens];  // as stored: kBFloat16 needs no conversion
  Conversion conversion;
};

struct Loader {
  ViewCursor cursor;
  const TableView* views_end;
  int num_kv_heads;
  int kv_head;
  int end;
  int lane;
};

__device__ __forceinline__ const uint8_t* RowAt(const void* data, int64_t row, int bytes) {
  return static_cast<const uint8_t*>(data) + row * bytes;
}

// `rows` rows of one view from token `token` on to rows r … of the stage, kB bytes an element.
template <class Tile, int kB>
__device__ __forceinline__ void CopyRows(const Loader& loader, Stage<Tile>& stage, int token, int r,
                                         int rows) {
  constexpr int kRowSourceBytes = Tile::kDim * kB;
  constexpr int kChunks = kRowSourceBytes / kChunkBytes;
  const TableView& view = loader.cursor.view;
  const int64_t first =
      static_cast<int64_t>(token - view.first_token) * loader.num_kv_heads + loader.kv_head;
  const int64_t stride = static_cast<int64_t>(loader.num_kv_heads) * kRowSourceBytes;
  const uint8_t* k = RowAt(view.k, first, kRowSourceBytes);
  const uint8_t* v = RowAt(view.v, first, kRowSourceBytes);
  const uint32_t k_to = SharedAddress(stage.k);
  const uint32_t v_to = SharedAddress(stage.v);
#pragma unroll 16
  for (int u = loader.lane; u < rows * 2 * kChunks; u += kWarp) {
    const int chunk = u % kChunks;
    const bool is_v = u / kChunks % 2 != 0;
    const int row = u / (2 * kChunks);
    CopyAsync16((is_v ? v_to : k_to) + ChunkOffset<Tile::kRowBytes>(r + row, chunk),
                (is_v ? v : k) + row * stride + chunk * kChunkBytes, kChunkBytes);
  }
}

// Float32 rows where the ring has no room for them: rounded now, at the price of waiting for them.
template <class Tile>
__device__ __forceinline__ void RoundRows(const Loader& loader, Stage<Tile>& stage, int token,
                                          int r, int rows) {
  constexpr int kPairs = Tile::kDim / 2;
  const TableView& view = loader.cursor.view;
  for (int u = loader.lane; u < rows * kPairs; u += kWarp) {
    const int row = u / kPairs;
    const int pair = u % kPairs;
    const int64_t from =
        (static_cast<int64_t>(token + row - view.first_token) * loader.num_kv_heads +
         loader.kv_head) *
            kPairs +
        pair;
    const float2 k = static_cast<const float2*>(view.k)[from];
    const float2 v = static_cast<const float2*>(view.v)[from];
    const uint32_t to = ChunkOffset<Tile::kRowBytes>(r + row, pair / 4) + pair % 4 * 4;
    *reinterpret_cast<uint32_t*>(stage.k + to) = PackBFloat16(k.x, k.y);
    *reinterpret_cast<uint32_t*>(stage.v + to) = PackBFloat16(v.x, v.y);
  }
}

template <class Tile>
__device__ __forceinline__ void ZeroRows(const Loader& loader, Stage<Tile>& stage, int r) {
  constexpr int kWords = Tile::kRowBytes / kChunkBytes;
  for (int u = r * kWords + loader.lane; u < kDecodeTileTokens * kWords; u += kWarp) {
    reinterpret_cast<uint4*>(stage.k)[u] = {0, 0, 0, 0};
    reinterpret_cast<uint4*>(stage.v)[u] = {0, 0, 0, 0};
  }
  if (loader.lane >= r && loader.lane < kDecodeTileTokens) {
    stage.types[loader.lane] = ElementType::kBFloat16;
    stage.k_scales[loader.lane] = stage.v_scales[loader.lane] = 1.0f;
  }
}

// Starts the copies of up to `rows` rows of the cursor's view.
template <class Tile>
__device__ __forceinline__ Conversion LoadRun(const Loader& loader, Stage<Tile>& stage, int token,
                                              int r, int rows) {
  const TableView& view = loader.cursor.view;
  const bool scaled = view.k_scales != nullptr;
  ElementType type = view.type;
  if (type == ElementType::kBFloat16) {
    CopyRows<Tile, 2>(loader, stage, token, r, rows);
  } else if (type != ElementType::kFloat32) {
    CopyRows<Tile, 1>(loader, stage, token, r, rows);
  } else if (Tile::kElementBytes == 4) {
    CopyRows<Tile, 4>(loader, stage, token, r, rows);
  } else {
    RoundRows(loader, stage, token, r, rows);
    type = ElementType::kBFloat16;
  }
  if (loader.lane < rows) {
    const int64_t from =
        static_cast<int64_t>(token + loader.lane - view.first_token) * loader.num_kv_heads +
        loader.kv_head;
    stage.types[r + loader.lane] = type;
    if (scaled) {
      CopyAsync4(SharedAddress(&stage.k_scales[r + loader.lane]), view.k_scales + from);
      CopyAsync4(SharedAddress(&stage.v_scales[r + loader.lane]), view.v_scales + from);
    } else {
      stage.k_scales[r + loader.lane] = stage.v_scales[r + loader.lane] = 1.0f;
    }
  }
  return type == ElementType::kBFloat16 ? Conversion::kNone : static_cast<Conversion>(type);
}

// Starts the copies of tokens token … token + 15, zeros from the range's end on.
template <class Tile>
__device__ __forceinline__ void LoadTile(Loader& loader, Stage<Tile>& stage, int token) {
  const int rows = min(kDecodeTileTokens, loader.end - token);
  Conversion conversion = Conversion::kNone;
  loader.cursor.Seek(token, loader.views_end);
  int in_view = loader.cursor.view.first_token + loader.cursor.view.num_tokens - token;
  if (in_view >= kDecodeTileTokens && rows == kDecodeTileTokens) {
    conversion = LoadRun(loader, stage, token, 0, kDecodeTileTokens);
  } else {
#pragma unroll 1
    for (int r = 0; r < rows;) {
      loader.cursor.Seek(token + r, loader.views_end);
      in_view = loader.cursor.view.first_token + loader.cursor.view.num_tokens - (token + r);
      const int run = min(in_view, rows - r);
      const Conversion of_run = LoadRun(loader, stage, token + r, r, run);
      if (of_run != Conversion::kNone) conversion = Conversion::kMixed;
      r += run;
    }
    ZeroRows(loader, stage, rows);
  }
  if (loader.lane == 0) stage.conversion = conversion;
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_DECODE_RING_CUH_

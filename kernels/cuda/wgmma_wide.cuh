// Warpgroup products of up to 256 columns (sm_90a; empty elsewhere), besides those of wgmma.cuh.
// Both operands by rows of 128 bytes, swizzled as there.
#ifndef MSA_KERNELS_CUDA_WGMMA_WIDE_CUH_
#define MSA_KERNELS_CUDA_WGMMA_WIDE_CUH_

#include "kernels/cuda/wgmma.cuh"

namespace msa::kernels::cuda {

// Of the operand that begins at this shared-memory address, a multiple of 1,024. The product of
// bytes 32·i … 32·i+31 of the rows takes the descriptor plus 2·i.
__device__ inline uint64_t RowsDescriptor(uint32_t address) {
  return Descriptor(address, 16, kAtomBytes);
}

// clang-format off
// Operands by eights: places in the instruction, then the sums that go there.
#define MSA_P0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define MSA_P1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define MSA_P2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define MSA_P3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define MSA_P4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define MSA_P5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define MSA_P6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define MSA_P7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define MSA_P8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define MSA_P9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define MSA_P10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define MSA_P11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define MSA_P12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define MSA_P13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define MSA_P14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define MSA_P15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define MSA_SUM8(i) MSA_SUM(d[i]), MSA_SUM(d[i + 1]), MSA_SUM(d[i + 2]), MSA_SUM(d[i + 3]), MSA_SUM(d[i + 4]), MSA_SUM(d[i + 5]), MSA_SUM(d[i + 6]), MSA_SUM(d[i + 7])
#define MSA_PLACES_4 MSA_P0 ", " MSA_P1 ", " MSA_P2 ", " MSA_P3
#define MSA_SUMS_4 MSA_SUM8(0), MSA_SUM8(8), MSA_SUM8(16), MSA_SUM8(24)
#define MSA_PLACES_6 MSA_PLACES_4 ", " MSA_P4 ", " MSA_P5
#define MSA_SUMS_6 MSA_SUMS_4, MSA_SUM8(32), MSA_SUM8(40)
#define MSA_PLACES_7 MSA_PLACES_6 ", " MSA_P6
#define MSA_SUMS_7 MSA_SUMS_6, MSA_SUM8(48)
#define MSA_PLACES_8 MSA_PLACES_7 ", " MSA_P7
#define MSA_SUMS_8 MSA_SUMS_7, MSA_SUM8(56)
#define MSA_PLACES_9 MSA_PLACES_8 ", " MSA_P8
#define MSA_SUMS_9 MSA_SUMS_8, MSA_SUM8(64)
#define MSA_PLACES_10 MSA_PLACES_8 ", " MSA_P8 ", " MSA_P9
#define MSA_SUMS_10 MSA_SUMS_8, MSA_SUM8(64), MSA_SUM8(72)
#define MSA_PLACES_11 MSA_PLACES_10 ", " MSA_P10
#define MSA_SUMS_11 MSA_SUMS_10, MSA_SUM8(80)
#define MSA_PLACES_12 MSA_PLACES_11 ", " MSA_P11
#define MSA_SUMS_12 MSA_SUMS_11, MSA_SUM8(88)
#define MSA_PLACES_13 MSA_PLACES_12 ", " MSA_P12
#define MSA_SUMS_13 MSA_SUMS_12, MSA_SUM8(96)
#define MSA_PLACES_14 MSA_PLACES_13 ", " MSA_P13
#define MSA_SUMS_14 MSA_SUMS_13, MSA_SUM8(104)
#define MSA_PLACES_15 MSA_PLACES_14 ", " MSA_P14
#define MSA_SUMS_15 MSA_SUMS_14, MSA_SUM8(112)
#define MSA_PLACES_16 MSA_PLACES_15 ", " MSA_P15
#define MSA_SUMS_16 MSA_SUMS_15, MSA_SUM8(120)
#define MSA_PRODUCT(columns, places, a_place, b_place, add_place, ...)                     \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %" add_place ", 0; "                         \
               "wgmma.mma_async.sync.aligned.m64n" columns MSA_KIND " {" places "}, %"      \
               a_place ", %" b_place ", p" MSA_TAIL "; }"                             \
               : __VA_ARGS__ : "l"(a), "l"(b), "r"(static_cast<int>(add)))

#define MSA_PRODUCTS \
  if constexpr (kTiles == 8) MSA_PRODUCT("64", MSA_PLACES_4, "32", "33", "34", MSA_SUMS_4); \
  if constexpr (kTiles == 12) MSA_PRODUCT("96", MSA_PLACES_6, "48", "49", "50", MSA_SUMS_6); \
  if constexpr (kTiles == 14) MSA_PRODUCT("112", MSA_PLACES_7, "56", "57", "58", MSA_SUMS_7); \
  if constexpr (kTiles == 16) MSA_PRODUCT("128", MSA_PLACES_8, "64", "65", "66", MSA_SUMS_8); \
  if constexpr (kTiles == 18) MSA_PRODUCT("144", MSA_PLACES_9, "72", "73", "74", MSA_SUMS_9); \
  if constexpr (kTiles == 20) MSA_PRODUCT("160", MSA_PLACES_10, "80", "81", "82", MSA_SUMS_10); \
  if constexpr (kTiles == 22) MSA_PRODUCT("176", MSA_PLACES_11, "88", "89", "90", MSA_SUMS_11); \
  if constexpr (kTiles == 24) MSA_PRODUCT("192", MSA_PLACES_12, "96", "97", "98", MSA_SUMS_12); \
  if constexpr (kTiles == 26) MSA_PRODUCT("208", MSA_PLACES_13, "104", "105", "106", MSA_SUMS_13); \
  if constexpr (kTiles == 28) MSA_PRODUCT("224", MSA_PLACES_14, "112", "113", "114", MSA_SUMS_14); \
  if constexpr (kTiles == 30) MSA_PRODUCT("240", MSA_PLACES_15, "120", "121", "122", MSA_SUMS_15); \
  if constexpr (kTiles == 32) MSA_PRODUCT("256", MSA_PLACES_16, "128", "129", "130", MSA_SUMS_16);

// The same with the keys in registers.
#define MSA_PRODUCT_OF_HALVES(columns, places, a_places, b_place, add_place, ...)         \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, %" add_place ", 0; "                       \
               "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32.f16.f16 {" places "}, {" \
               a_places "}, %" b_place ", p, 1, 1, 0; }"                                  \
               : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)))

#define MSA_PRODUCTS_OF_HALVES \
  if constexpr (kTiles == 8) MSA_PRODUCT_OF_HALVES("64", MSA_PLACES_4, "%32, %33, %34, %35", "36", "37", MSA_SUMS_4); \
  if constexpr (kTiles == 12) MSA_PRODUCT_OF_HALVES("96", MSA_PLACES_6, "%48, %49, %50, %51", "52", "53", MSA_SUMS_6); \
  if constexpr (kTiles == 14) MSA_PRODUCT_OF_HALVES("112", MSA_PLACES_7, "%56, %57, %58, %59", "60", "61", MSA_SUMS_7); \
  if constexpr (kTiles == 16) MSA_PRODUCT_OF_HALVES("128", MSA_PLACES_8, "%64, %65, %66, %67", "68", "69", MSA_SUMS_8); \
  if constexpr (kTiles == 18) MSA_PRODUCT_OF_HALVES("144", MSA_PLACES_9, "%72, %73, %74, %75", "76", "77", MSA_SUMS_9); \
  if constexpr (kTiles == 20) MSA_PRODUCT_OF_HALVES("160", MSA_PLACES_10, "%80, %81, %82, %83", "84", "85", MSA_SUMS_10); \
  if constexpr (kTiles == 22) MSA_PRODUCT_OF_HALVES("176", MSA_PLACES_11, "%88, %89, %90, %91", "92", "93", MSA_SUMS_11); \
  if constexpr (kTiles == 24) MSA_PRODUCT_OF_HALVES("192", MSA_PLACES_12, "%96, %97, %98, %99", "100", "101", MSA_SUMS_12); \
  if constexpr (kTiles == 26) MSA_PRODUCT_OF_HALVES("208", MSA_PLACES_13, "%104, %105, %106, %107", "108", "109", MSA_SUMS_13); \
  if constexpr (kTiles == 28) MSA_PRODUCT_OF_HALVES("224", MSA_PLACES_14, "%112, %113, %114, %115", "116", "117", MSA_SUMS_14); \
  if constexpr (kTiles == 30) MSA_PRODUCT_OF_HALVES("240", MSA_PLACES_15, "%120, %121, %122, %123", "124", "125", MSA_SUMS_15); \
  if constexpr (kTiles == 32) MSA_PRODUCT_OF_HALVES("256", MSA_PLACES_16, "%128, %129, %130, %131", "132", "133", MSA_SUMS_16);

// d (+)= a · bᵀ over 32 bytes of the width and 8 · kTiles columns. Thread t of the warpgroup has
// rows 16·(t/32) + t%32/4 (+ 8 for elements 2, 3 of four) and columns 8·j + t%4·2 + {0, 1} in
// d[4·j …].
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define MSA_SUM(x) "+f"(x)
#define MSA_KIND "k16.f32.bf16.bf16"
#define MSA_TAIL ", 1, 1, 0, 0"
template <int kTiles>
__device__ inline void ProductBFloat16(float (&d)[4 * kTiles], uint64_t a, uint64_t b, bool add) {
  MSA_PRODUCTS
}
// d (+)= a · bᵀ over 16 float16 elements of the width, the keys `a` in registers: rows and elements of
// thread t as in mma.m16n8k16, a warp's 16 rows.
template <int kTiles>
__device__ inline void ProductHalf(float (&d)[4 * kTiles], const uint32_t (&a)[4], uint64_t b, bool add) {
  MSA_PRODUCTS_OF_HALVES
}
#undef MSA_KIND
#undef MSA_TAIL
#undef MSA_SUM
#define MSA_SUM(x) "+r"(x)
#define MSA_KIND "k32.s32.s8.s8"
#define MSA_TAIL ""
template <int kTiles>
__device__ inline void ProductInt8(int32_t (&d)[4 * kTiles], uint64_t a, uint64_t b, bool add) {
  MSA_PRODUCTS
}
#undef MSA_KIND
#undef MSA_TAIL
#undef MSA_SUM
#endif
#undef MSA_PRODUCTS
#undef MSA_PRODUCTS_OF_HALVES
#undef MSA_PRODUCT_OF_HALVES
#undef MSA_P0
#undef MSA_P1
#undef MSA_P2
#undef MSA_P3
#undef MSA_P4
#undef MSA_P5
#undef MSA_P6
#undef MSA_P7
#undef MSA_P8
#undef MSA_P9
#undef MSA_P10
#undef MSA_P11
#undef MSA_P12
#undef MSA_P13
#undef MSA_P14
#undef MSA_P15
#undef MSA_SUM8
#undef MSA_PLACES_7
#undef MSA_SUMS_7
#undef MSA_PLACES_9
#undef MSA_SUMS_9
#undef MSA_PLACES_13
#undef MSA_SUMS_13
#undef MSA_PLACES_14
#undef MSA_SUMS_14
#undef MSA_PLACES_15
#undef MSA_SUMS_15
#undef MSA_PLACES_4
#undef MSA_SUMS_4
#undef MSA_PLACES_6
#undef MSA_SUMS_6
#undef MSA_PLACES_8
#undef MSA_SUMS_8
#undef MSA_PLACES_10
#undef MSA_SUMS_10
#undef MSA_PLACES_11
#undef MSA_SUMS_11
#undef MSA_PLACES_12
#undef MSA_SUMS_12
#undef MSA_PLACES_16
#undef MSA_SUMS_16
#undef MSA_PRODUCT
// clang-format on

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_WGMMA_WIDE_CUH_

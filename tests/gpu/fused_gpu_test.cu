// The small fused kernels against the formulas of kernels/backend.h in double precision.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <functional>

#include "kernels/cuda/fused.h"
#include "tests/gpu/gpu_test.h"

namespace msa::kernels::cuda {
namespace {

using ::msa::testing::DeviceBuffer;
using ::msa::testing::Expect;
using ::msa::testing::ExpectNear;
using ::msa::testing::RandomFloats;

constexpr double kElementwise = 3e-6;  // tests/support/tolerances.h
constexpr double kHalfStep = 0.0040;   // of bfloat16, relative to 1 + |x|
using Bf16 = uint16_t;

std::vector<double> Widen(const std::vector<Bf16>& bits) {
  std::vector<double> values;
  for (Bf16 b : bits) {
    const uint32_t word = static_cast<uint32_t>(b) << 16;
    float x;
    std::memcpy(&x, &word, 4);
    values.push_back(x);
  }
  return values;
}

// Rounded as the kernels must: to nearest even.
std::vector<Bf16> Narrow(const std::vector<float>& values) {
  std::vector<Bf16> bits;
  for (float x : values) {
    const __nv_bfloat16 b = __float2bfloat16_rn(x);
    Bf16 raw;
    std::memcpy(&raw, &b, 2);
    bits.push_back(raw);
  }
  return bits;
}

std::string At(const char* what, int64_t a, int64_t b = 0) {
  return std::string(what) + " " + std::to_string(a) + " " + std::to_string(b);
}

std::vector<double> OracleRmsNorm(const std::vector<float>& x, const std::vector<float>& weight,
                                  int64_t width, double eps) {
  std::vector<double> out(x.size());
  for (size_t row = 0; row < x.size(); row += width) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += double{x[row + i]} * x[row + i];
    const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (int64_t i = 0; i < width; ++i) out[row + i] = x[row + i] * factor * weight[i];
  }
  return out;
}

void TestRmsNorm() {
  for (const int64_t width : {1, 7, 64, 576, 577, 1024, 2560, 4096, 6144, 9728}) {
    for (const int64_t rows : {1, 5}) {
      const std::vector<float> x = RandomFloats(rows * width, width);
      const std::vector<float> y = RandomFloats(rows * width, width + 1);
      const std::vector<float> weight = RandomFloats(width, width + 2);
      DeviceBuffer<float> dx(x), dy(y), dw(weight), out(rows * width);
      DeviceBuffer<Bf16> out16(rows * width);
      CUDA_OK(RmsNorm(dx.get(), dw.get(), rows, width, 1e-5f, {out.get(), out16.get()}, nullptr));
      const std::vector<double> expected = OracleRmsNorm(x, weight, width, 1e-5);
      ExpectNear(out.ToHost(), expected, kElementwise, At("rmsnorm", rows, width));
      ExpectNear(Widen(out16.ToHost()), expected, kHalfStep, At("rmsnorm bf16", rows, width));
      Expect(out.GuardIsWhole() && out16.GuardIsWhole(), "rmsnorm guard");
      std::vector<float> sum(x);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += y[i];
      const std::vector<double> of_sum = OracleRmsNorm(sum, weight, width, 1e-5);
      out.Poison();
      CUDA_OK(AddRmsNorm(dx.get(), dy.get(), dw.get(), rows, width, 1e-5f, {out.get(), nullptr},
                         nullptr));
      Expect(dx.ToHost() == sum, At("residual", rows, width));
      ExpectNear(out.ToHost(), of_sum, kElementwise, At("add rmsnorm", rows, width));
      CUDA_OK(RmsNorm(dx.get(), dw.get(), rows, width, 1e-5f, {dx.get(), nullptr}, nullptr));
      ExpectNear(dx.ToHost(), of_sum, kElementwise, At("rmsnorm in place", rows, width));
    }
  }
}

std::vector<double> OracleRope(const std::vector<double>& x, const std::vector<int32_t>& positions,
                               int heads, int dim, const std::vector<float>& inv_freq,
                               double magnitude) {
  std::vector<double> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const int lane = static_cast<int>(i % dim);
    const int pair = lane % (dim / 2);
    const float angle = static_cast<float>(positions[i / (heads * dim)]) * inv_freq[pair];
    const double cosine = std::cos(double{angle});
    const double sine = std::sin(double{angle});
    const double low = x[i - lane + pair];
    const double high = x[i - lane + pair + dim / 2];
    out[i] = magnitude * (lane == pair ? low * cosine - high * sine : high * cosine + low * sine);
  }
  return out;
}

std::vector<float> Frequencies(int dim) {
  std::vector<float> inv_freq(dim / 2);
  for (int i = 0; i < dim / 2; ++i) {
    inv_freq[i] = std::pow(1e4f, -2.0f * static_cast<float>(i) / static_cast<float>(dim));
  }
  return inv_freq;
}

void TestRope() {
  for (const int dim : {2, 6, 16, 32, 64, 128, 256}) {
    const std::vector<int32_t> positions = {0, 1, 77, 4095, 130000};
    const std::vector<float> inv_freq = Frequencies(dim);
    const std::vector<float> x = RandomFloats(positions.size() * 3 * dim, dim);
    DeviceBuffer<float> dx(x), df(inv_freq);
    DeviceBuffer<int32_t> dp(positions);
    CUDA_OK(Rope(dx.get(), dp.get(), 5, 3, dim, df.get(), 1.5f, nullptr));
    ExpectNear(dx.ToHost(), OracleRope({x.begin(), x.end()}, positions, 3, dim, inv_freq, 1.5),
               2 * kElementwise, At("rope", dim));
  }
}

// Columns begin … begin + width of rows of `stride`.
std::vector<float> Columns(const std::vector<float>& x, int64_t stride, int64_t begin,
                           int64_t width) {
  std::vector<float> out;
  for (size_t row = 0; row < x.size(); row += stride) {
    out.insert(out.end(), x.begin() + row + begin, x.begin() + row + begin + width);
  }
  return out;
}

void TestSplitQkv() {
  for (const int dim : {6, 64, 128, 256}) {
    for (const bool norm : {false, true}) {
      const int hq = 6, hkv = 2, rows = 7, capacity = 20;
      const int64_t stride = (hq + 2 * hkv) * dim;
      const std::vector<float> qkv = RandomFloats(rows * stride, dim);
      const std::vector<float> qn = RandomFloats(dim, 1), kn = RandomFloats(dim, 2);
      const std::vector<float> inv_freq = Frequencies(dim);
      const std::vector<int32_t> positions = {3, 4, 5, 1000, 1001, 0, 65000};
      // Rows 0 … 2 and 5, 6 to one cache, 3 to another, 4 nowhere.
      const std::vector<int32_t> tokens = {8, 9, 10, 0, -1, 11, 19};
      std::vector<float> q = Columns(qkv, stride, 0, hq * dim);
      std::vector<float> k = Columns(qkv, stride, hq * dim, hkv * dim);
      const std::vector<float> v = Columns(qkv, stride, (hq + hkv) * dim, hkv * dim);
      std::vector<double> q_in(q.begin(), q.end()), k_in(k.begin(), k.end());
      if (norm) {
        q_in = OracleRmsNorm(q, qn, dim, 1e-6);
        k_in = OracleRmsNorm(k, kn, dim, 1e-6);
      }
      const std::vector<double> q_out = OracleRope(q_in, positions, hq, dim, inv_freq, 1.0);
      const std::vector<double> k_out = OracleRope(k_in, positions, hkv, dim, inv_freq, 1.0);
      DeviceBuffer<float> d_qkv(qkv), d_qn(qn), d_kn(kn), d_freq(inv_freq);
      DeviceBuffer<float> d_q(q.size()), d_k(k.size()), d_v(v.size());
      DeviceBuffer<int32_t> d_positions(positions), d_tokens(tokens);
      DeviceBuffer<float> cache_k(2 * capacity * hkv * dim), cache_v(2 * capacity * hkv * dim);
      DeviceBuffer<Bf16> cache_k16(2 * capacity * hkv * dim), cache_v16(2 * capacity * hkv * dim);
      for (const bool bf16 : {false, true}) {
        std::vector<KvSlots> slots(rows);
        for (int r = 0; r < rows; ++r) {
          const int64_t at = r == 3 ? int64_t{1} * capacity * hkv * dim : 0;
          slots[r] = bf16 ? KvSlots{cache_k16.get() + at, cache_v16.get() + at}
                          : KvSlots{cache_k.get() + at, cache_v.get() + at};
        }
        DeviceBuffer<KvSlots> d_slots(slots);
        QkvArgs args;
        args.qkv = d_qkv.get();
        args.rows = rows;
        args.num_q_heads = hq;
        args.num_kv_heads = hkv;
        args.head_dim = dim;
        args.q_norm = norm ? d_qn.get() : nullptr;
        args.k_norm = norm ? d_kn.get() : nullptr;
        args.eps = 1e-6f;
        args.positions = d_positions.get();
        args.inv_freq = d_freq.get();
        args.q = d_q.get();
        args.k = d_k.get();
        args.v = d_v.get();
        args.caches = d_slots.get();
        args.cache_tokens = d_tokens.get();
        args.cache_type = bf16 ? ElementType::kBFloat16 : ElementType::kFloat32;
        CUDA_OK(SplitQkv(args, nullptr));
        CUDA_OK(cudaDeviceSynchronize());
      }
      const std::string what = At("split qkv", dim, norm);
      ExpectNear(d_q.ToHost(), q_out, 2 * kElementwise, what + " q");
      ExpectNear(d_k.ToHost(), k_out, 2 * kElementwise, what + " k");
      Expect(d_v.ToHost() == v, what + " v");
      const std::vector<float> in_k = cache_k.ToHost(), in_v = cache_v.ToHost();
      const std::vector<double> in_k16 = Widen(cache_k16.ToHost());
      const std::vector<double> in_v16 = Widen(cache_v16.ToHost());
      size_t written = 0;
      for (float x : in_k) written += std::isnan(x) ? 0 : 1;
      Expect(written == size_t{6} * hkv * dim, what + " writes only its slots");
      for (int r = 0; r < rows; ++r) {
        if (tokens[r] < 0) continue;
        for (int i = 0; i < hkv * dim; ++i) {
          const size_t at = ((r == 3 ? capacity : 0) + tokens[r]) * hkv * dim + i;
          const size_t from = r * hkv * dim + i;
          Expect(msa::testing::Near(in_k[at], k_out[from], 2 * kElementwise) &&
                     in_v[at] == v[from] &&
                     msa::testing::Near(in_k16[at], k_out[from], kHalfStep) &&
                     msa::testing::Near(in_v16[at], v[from], kHalfStep),
                 what + " cache row " + std::to_string(r));
        }
      }
    }
  }
}

void TestSiluMul() {
  for (const int64_t width : {1, 7, 64, 1536, 1537}) {
    for (const int64_t rows : {1, 3}) {
      std::vector<float> x = RandomFloats(rows * 2 * width, width, 3.0);
      const float ends[] = {-200, -88, -0.0f, 60, 88, 200};
      for (int i = 0; i < 6 && i < width; ++i) x[i] = ends[i];
      std::vector<double> expected;
      for (int64_t i = 0; i < rows * width; ++i) {
        const double gate = x[i / width * 2 * width + i % width];
        expected.push_back(gate / (1 + std::exp(-gate)) *
                           x[i / width * 2 * width + width + i % width]);
      }
      DeviceBuffer<float> dx(x), out(rows * width);
      DeviceBuffer<Bf16> out16(rows * width);
      CUDA_OK(SiluMul(dx.get(), dx.get() + width, rows, width, 2 * width, {out.get(), out16.get()},
                      nullptr));
      ExpectNear(out.ToHost(), expected, kElementwise, At("silu", rows, width));
      ExpectNear(Widen(out16.ToHost()), expected, kHalfStep, At("silu bf16", rows, width));
      Expect(out.GuardIsWhole() && out16.GuardIsWhole(), "silu guard");
    }
  }
}

void TestAdd() {
  for (const int64_t n : {0, 1, 8, 1001, 100000}) {
    const std::vector<float> x = RandomFloats(n, 1), y = RandomFloats(n, 2);
    std::vector<float> sum(x), biased(x);
    for (int64_t i = 0; i < n; ++i) sum[i] += y[i];
    DeviceBuffer<float> dx(x), dy(y);
    CUDA_OK(Add(dx.get(), dy.get(), n, nullptr));
    Expect(dx.ToHost() == sum, At("add", n));
    if (n % 7 != 0 || n == 0) continue;
    DeviceBuffer<float> db(x);
    CUDA_OK(AddBias(db.get(), dy.get(), n / 7, 7, nullptr));
    for (int64_t i = 0; i < n; ++i) biased[i] += y[i % 7];
    Expect(db.ToHost() == biased, At("bias", n));
  }
}

void TestGatherRows() {
  const int64_t width = 37, stride = 40;
  const std::vector<float> table = RandomFloats(9 * stride, 3);
  const std::vector<int32_t> indices = {8, 0, 0, 3};
  std::vector<__half> half;
  for (float x : table) half.push_back(__float2half_rn(x));
  DeviceBuffer<float> d32(table);
  DeviceBuffer<Bf16> d16(Narrow(table));
  DeviceBuffer<__half> dh(half);
  DeviceBuffer<int32_t> di(indices);
  const std::vector<double> wide16 = Widen(Narrow(table));
  for (const ElementType type :
       {ElementType::kFloat32, ElementType::kBFloat16, ElementType::kFloat16}) {
    const void* from = type == ElementType::kFloat32    ? static_cast<void*>(d32.get())
                       : type == ElementType::kBFloat16 ? static_cast<void*>(d16.get())
                                                        : dh.get();
    std::vector<double> expected;
    for (int32_t index : indices) {
      for (int64_t i = index * stride; i < index * stride + width; ++i) {
        expected.push_back(type == ElementType::kFloat32    ? table[i]
                           : type == ElementType::kBFloat16 ? wide16[i]
                                                            : __half2float(half[i]));
      }
    }
    DeviceBuffer<float> out(4 * width);
    CUDA_OK(GatherRows(from, type, di.get(), 4, width, stride, {out.get(), nullptr}, nullptr));
    ExpectNear(out.ToHost(), expected, 0, At("gather", static_cast<int>(type)));
  }
}

void TestArgMax() {
  const int64_t n = 49152;
  std::vector<float> x = RandomFloats(6 * n, 4);
  const auto row = [&](int r) { return x.begin() + r * n; };
  row(1)[40000] = row(1)[77] = 100;  // a tie: the lower index
  row(2)[0] = NAN;
  row(2)[5] = 200;
  std::fill(row(3), row(4), NAN);
  std::fill(row(4), row(5), -INFINITY);
  row(5)[n - 1] = 300;
  DeviceBuffer<float> dx(x), values(6);
  DeviceBuffer<int32_t> indices(6);
  CUDA_OK(ArgMax(dx.get(), 6, n, indices.get(), values.get(), nullptr));
  const std::vector<int32_t> got = indices.ToHost();
  const int first = static_cast<int>(std::max_element(row(0), row(1)) - row(0));
  const std::vector<int32_t> expected = {first, 77, 5, 0, 0, static_cast<int32_t>(n - 1)};
  Expect(got == expected, "argmax");
  Expect(values.ToHost()[5] == 300, "argmax value");
}

void TestL2NormalizeAndFold() {
  const std::vector<float> x = {3, 4, 0, 0, 0, 0, 0, -2, 0, 1e-13f, 0, 0};
  DeviceBuffer<float> dx(x);
  CUDA_OK(L2Normalize(dx.get(), 4, 3, nullptr));
  ExpectNear(dx.ToHost(), std::vector<double>{0.6, 0.8, 0, 0, 0, 0, 0, -1, 0, 0.1, 0, 0}, 1e-6,
             "l2 normalize");
  const std::vector<float> q = {1, 2, 3, 4, 10, 20, 30, 40};
  DeviceBuffer<float> dq(q), out(4);
  CUDA_OK(FoldQueries(dq.get(), 1, 4, 2, 2, out.get(), nullptr));
  Expect(out.ToHost() == std::vector<float>{1, 1.5f, 10, 15}, "fold");
  const std::vector<float> many = RandomFloats(5 * 9 * 64, 3);
  std::vector<double> expected(5 * 3 * 64, 0.0);
  for (size_t i = 0; i < many.size(); ++i) {
    const size_t token = i / (9 * 64), group = i / 64 % 9 / 3;
    expected[(token * 3 + group) * 64 + i % 64] += many[i] / 9.0;
  }
  DeviceBuffer<float> dm(many), folded(expected.size());
  CUDA_OK(FoldQueries(dm.get(), 5, 9, 3, 64, folded.get(), nullptr));
  ExpectNear(folded.ToHost(), expected, kElementwise, "fold many");
}

void TestQuantize() {
  // Largest 254, scale 2; ties round to even: 1 / 2 = 0.5 to 0, 3 / 2 = 1.5 to 2.
  const std::vector<float> x = {254, 1, 3, -254, -3, 5, 0, 0, 0, 0, 0, 0};
  DeviceBuffer<float> dx(x), scales(2), back(12);
  DeviceBuffer<int8_t> steps(12);
  CUDA_OK(Quantize(dx.get(), 2, 6, ElementType::kInt8, steps.get(), scales.get(), nullptr));
  Expect(steps.ToHost() == std::vector<int8_t>{127, 0, 2, -127, -2, 2, 0, 0, 0, 0, 0, 0}, "int8");
  Expect(scales.ToHost() == std::vector<float>{2, 0}, "int8 scales");
  CUDA_OK(Dequantize(steps.get(), scales.get(), 2, 6, ElementType::kInt8, back.get(), nullptr));
  Expect(back.ToHost() == std::vector<float>{254, 0, 4, -254, -4, 4, 0, 0, 0, 0, 0, 0},
         "int8 back");
  for (const int64_t width : {1, 5, 64, 131, 1024}) {
    std::vector<float> y = RandomFloats(4 * width, width);
    y[3 * width] = NAN;
    DeviceBuffer<float> dy(y), s(4), b(4 * width);
    DeviceBuffer<uint8_t> stored(4 * 4 * width);
    for (const ElementType type : {ElementType::kInt8, ElementType::kFloat8E4M3,
                                   ElementType::kBFloat16, ElementType::kFloat32}) {
      CUDA_OK(Quantize(dy.get(), 4, width, type, stored.get(), s.get(), nullptr));
      CUDA_OK(Dequantize(stored.get(), s.get(), 4, width, type, b.get(), nullptr));
      const std::vector<float> got = b.ToHost(), sc = s.ToHost();
      for (int64_t i = 0; i < 3 * width; ++i) {
        const double error = std::fabs(double{got[i]} - y[i]);
        const double allowed = type == ElementType::kInt8 ? sc[i / width] * 0.50001
                               : type == ElementType::kFloat8E4M3
                                   ? std::max(std::fabs(y[i]) / 15.99, sc[i / width] / 1000.0)
                               : type == ElementType::kBFloat16 ? std::fabs(y[i]) / 255.9
                                                                : 0.0;
        Expect(error <= allowed, At("quantize and back", static_cast<int>(type), width));
      }
      Expect(std::isnan(got[3 * width]), "NaN reads back as NaN");
    }
  }
}

void TestPoolColumns(int64_t width) {
  for (const int64_t tokens : {1, 63, 64, 65, 200}) {
    const int64_t chunks = (tokens + 63) / 64;
    const std::vector<float> x = RandomFloats(tokens * width, tokens);
    std::vector<double> expected;
    for (int64_t i = 0; i < chunks * width; ++i) {
      const int64_t begin = i / width * 64, end = std::min(begin + 64, tokens);
      double sum = 0;
      for (int64_t t = begin; t < end; ++t) sum += x[t * width + i % width];
      expected.push_back(sum / static_cast<double>(end - begin));
    }
    DeviceBuffer<float> dx(x), out(chunks * width);
    PoolArgs args;
    args.x = dx.get();
    args.stride = width;
    args.num_chunks = chunks;
    args.chunk_tokens = 64;
    args.num_tokens = tokens;
    args.num_heads = 1;
    args.head_dim = static_cast<int>(width);
    args.out = out.get();
    CUDA_OK(PoolChunks(args, nullptr));
    ExpectNear(out.ToHost(), expected, kElementwise, At("pool", tokens));
    Expect(out.GuardIsWhole(), "pool guard");
  }
}

// Chunks of ragged documents, normalised and quantised, against the steps one by one.
void TestPoolChunks() {
  for (const int64_t width : {37, 556, 12'288}) TestPoolColumns(width);
  const std::vector<int32_t> begins = {0, 64, 70, 71, 135, 140};
  const int heads = 4, dim = 64, width = heads * dim, stride = width + 32;
  const std::vector<float> x = RandomFloats(140 * stride, 5);
  std::vector<double> mean(5 * width, 0.0);
  for (int c = 0; c < 5; ++c) {
    for (int t = begins[c]; t < begins[c + 1]; ++t) {
      for (int i = 0; i < width; ++i)
        mean[c * width + i] += x[t * stride + i] / double(begins[c + 1] - begins[c]);
    }
  }
  std::vector<double> unit(mean);
  for (int h = 0; h < 5 * heads; ++h) {
    double squares = 0;
    for (int i = 0; i < dim; ++i) squares += mean[h * dim + i] * mean[h * dim + i];
    for (int i = 0; i < dim; ++i) unit[h * dim + i] /= std::max(std::sqrt(squares), 1e-12);
  }
  DeviceBuffer<float> dx(x);
  DeviceBuffer<int32_t> db(begins);
  for (const bool normalize : {false, true}) {
    const std::vector<double>& expected = normalize ? unit : mean;
    for (const bool per_head : {false, true}) {
      for (const ElementType type : {ElementType::kFloat32, ElementType::kBFloat16,
                                     ElementType::kInt8, ElementType::kFloat8E4M3}) {
        DeviceBuffer<uint8_t> out(5 * width * ElementBytes(type));
        const int groups = per_head ? heads : 1;
        DeviceBuffer<float> scales(5 * groups), back(5 * width);
        PoolArgs args;
        args.x = dx.get();
        args.stride = stride;
        args.chunk_begin = db.get();
        args.num_chunks = 5;
        args.num_heads = heads;
        args.head_dim = dim;
        args.normalize = normalize;
        args.type = type;
        args.out = out.get();
        args.scales = IsScaled(type) ? scales.get() : nullptr;
        args.scale_per_head = per_head;
        CUDA_OK(PoolChunks(args, nullptr));
        CUDA_OK(Dequantize(out.get(), scales.get(), 5 * groups, width / groups, type, back.get(),
                           nullptr));
        const std::vector<float> got = back.ToHost();
        for (int i = 0; i < 5 * width; ++i) {
          double largest = 0;
          const int group = width / groups;
          for (int j = i / group * group; j < (i / group + 1) * group; ++j)
            largest = std::max(largest, std::fabs(expected[j]));
          const double allowed = type == ElementType::kFloat32 ? kElementwise
                                 : type == ElementType::kBFloat16
                                     ? kHalfStep * (1e-3 + std::fabs(expected[i]))
                                 : type == ElementType::kInt8
                                     ? largest / 127 * 0.5001
                                     : std::max(std::fabs(expected[i]) / 15.9, largest / 448 / 500);
          Expect(std::fabs(got[i] - expected[i]) <= allowed,
                 At("pool to type", static_cast<int>(type), normalize * 2 + per_head));
        }
        Expect(out.GuardIsWhole() && scales.GuardIsWhole(), "pool guards");
      }
    }
  }
}

}  // namespace
}  // namespace msa::kernels::cuda

int main() {
  using namespace msa::kernels::cuda;  // NOLINT: the whole program tests it
  TestRmsNorm();
  TestRope();
  TestSplitQkv();
  TestSiluMul();
  TestAdd();
  TestGatherRows();
  TestArgMax();
  TestL2NormalizeAndFold();
  TestQuantize();
  TestPoolChunks();
  return msa::testing::Finish("fused_gpu_test");
}

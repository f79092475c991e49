// Products of a few rows against sums in double precision, and that a row does not depend on the
// others.
#include <algorithm>

#include "kernels/cuda/skinny.h"
#include "tests/gpu/tensor.h"

namespace msa::kernels::cuda {
namespace {

using ::msa::testing::Expect;
using ::msa::testing::ExpectNear;

// x and the norm are rounded to bfloat16 before the product: relative steps of 2^-9, averaged over
// the sum.
constexpr double kTolerance = 0.01;

double Rounded(double x) { return __bfloat162float(__float2bfloat16_rn(static_cast<float>(x))); }

struct Case {
  int64_t rows;
  int64_t in;
  int64_t out;
  SkinnyThen then;
  bool norm;
  bool bias;
  bool half;  // x without a norm, y of kSiluMul

  std::string Name() const {
    return "rows " + std::to_string(rows) + " in " + std::to_string(in) + " out " +
           std::to_string(out) + " then " + std::to_string(static_cast<int>(then)) +
           (norm ? " norm" : "") + (bias ? " bias" : "") + (half ? " half" : "");
  }
};

struct Data {
  Tensor w, x_half, x_wide;
  std::vector<float> norm, bias, y;
  explicit Data(const Case& c)
      : w(c.out, static_cast<int>(c.in), kBf16, 1),
        x_half(c.rows, static_cast<int>(c.in), kBf16, 2),
        x_wide(c.rows, static_cast<int>(c.in), kF32, 2),
        norm(RandomFloats(c.in, 3)),
        bias(RandomFloats(c.out, 4)),
        y(RandomFloats(c.rows * c.out, 5)) {}
};

double Sum(const Case& c, const Data& data, int64_t row, int64_t column) {
  const bool half = c.half && !c.norm;
  const std::vector<double>& x = half ? data.x_half.values : data.x_wide.values;
  double squares = 0;
  double sum = 0;
  for (int64_t i = 0; i < c.in; ++i) {
    const double value = x[row * c.in + i];
    squares += value * value;
    sum += Rounded(c.norm ? value * data.norm[i] : value) * data.w.values[column * c.in + i];
  }
  if (c.norm) sum /= std::sqrt(squares / static_cast<double>(c.in) + 1e-6);
  return sum + (c.bias ? data.bias[column] : 0.0);
}

std::vector<double> Expected(const Case& c, const Data& data) {
  const bool silu = c.then == SkinnyThen::kSiluMul;
  const int64_t width = silu ? c.out / 2 : c.out;
  std::vector<double> y(c.rows * width);
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t column = 0; column < width; ++column) {
      double value = Sum(c, data, row, column);
      if (silu) value = value / (1 + std::exp(-value)) * Sum(c, data, row, width + column);
      if (c.then == SkinnyThen::kAdd) value += data.y[row * width + column];
      y[row * width + column] = value;
    }
  }
  return y;
}

// The first `rows` rows of the case's x.
std::vector<double> Run(const Case& c, Data& data, int64_t rows) {
  const bool silu = c.then == SkinnyThen::kSiluMul;
  const int64_t width = silu ? c.out / 2 : c.out;
  DeviceBuffer<float> norm(data.norm), bias(data.bias);
  DeviceBuffer<float> y(std::vector<float>(data.y.begin(), data.y.begin() + rows * width));
  DeviceBuffer<__nv_bfloat16> y_half(rows * width);
  SkinnyArgs args;
  args.w = data.w.device->get();
  args.out_features = c.out;
  args.in_features = c.in;
  args.x_half = c.half && !c.norm;
  args.x = args.x_half ? data.x_half.device->get() : data.x_wide.device->get();
  args.rows = rows;
  args.norm = c.norm ? norm.get() : nullptr;
  args.eps = 1e-6f;
  args.bias = c.bias ? bias.get() : nullptr;
  args.then = c.then;
  args.y_half = c.half && silu;
  args.y = args.y_half ? static_cast<void*>(y_half.get()) : y.get();
  Expect(ServesSkinny(args), c.Name() + ": is not served");
  CUDA_OK(SkinnyLinear(args, nullptr));
  std::vector<double> result;
  if (args.y_half) {
    for (const __nv_bfloat16 value : y_half.ToHost()) result.push_back(__bfloat162float(value));
    Expect(y_half.GuardIsWhole(), c.Name() + ": guard");
  } else {
    for (const float value : y.ToHost()) result.push_back(value);
    Expect(y.GuardIsWhole(), c.Name() + ": guard");
  }
  return result;
}

void Check(const Case& c) {
  Data data(c);
  const std::vector<double> all = Run(c, data, c.rows);
  // Elements grow with the root of the inner dimension, as does what rounding does to them.
  const double tolerance = kTolerance * (c.norm ? 1.0 : std::sqrt(static_cast<double>(c.in)) / 8);
  ExpectNear(all, Expected(c, data), std::max(tolerance, kTolerance), c.Name());
  for (int64_t rows = 1; rows < c.rows; ++rows) {
    const std::vector<double> some = Run(c, data, rows);
    Expect(std::equal(some.begin(), some.end(), all.begin()),
           c.Name() + ": differs with " + std::to_string(rows) + " rows");
  }
}

void Refusals() {
  DeviceBuffer<float> memory(64);
  SkinnyArgs args;
  args.w = args.x = memory.get();
  args.y = memory.get();
  args.rows = 1;
  args.in_features = 33;
  args.out_features = 16;
  Expect(!ServesSkinny(args), "33 columns are served");
  args.in_features = 32;
  Expect(ServesSkinny(args), "32 columns are not served");
  args.rows = kSkinnyRows + 1;
  Expect(!ServesSkinny(args), "nine rows are served");
  args.rows = 1;
  args.x = memory.get() + 1;
  Expect(!ServesSkinny(args), "an odd address is served");
}

}  // namespace
}  // namespace msa::kernels::cuda

int main() {
  using namespace msa::kernels::cuda;
  for (const SkinnyThen then : {SkinnyThen::kStore, SkinnyThen::kAdd, SkinnyThen::kSiluMul}) {
    for (const auto& [in, out] :
         {std::pair<int64_t, int64_t>{32, 16}, {96, 48}, {576, 960}, {2560, 128}, {9728, 32}}) {
      for (const int64_t rows : {1, 3, 8}) {
        Check({rows, in, out, then, rows != 3, rows == 3, false});
        Check({rows, in, out, then, false, rows == 8, true});
        Check({rows, in, out, then, true, true, true});
      }
    }
  }
  // Rows of weights that fill no tile.
  for (const int64_t out : {1, 15, 17, 131}) {
    Check({2, 64, out, SkinnyThen::kStore, true, true, false});
    Check({5, 64, out, SkinnyThen::kAdd, false, true, false});
  }
  Refusals();
  return msa::testing::Finish("skinny_gpu_test");
}

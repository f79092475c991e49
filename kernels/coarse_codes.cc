#include "kernels/coarse_codes.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/check.h"
#include "kernels/backend.h"

namespace msa::kernels {
namespace {

constexpr int kGroup = 64;  // elements in 32 bytes
constexpr int kMaxWidth = 4096;
constexpr int kSteps = 12;                   // scales tried
constexpr double kTooSmall = 1e-30;          // a key without larger elements is one of zeros
constexpr int64_t kDecodedFloats = 1 << 20;  // keys decoded at a time

int Code(double x) { return static_cast<int>(std::clamp(std::floor(x) + 8, 0.0, 15.0)); }

// How well codes at a step of 1 / inverse fit: the share of the key's square that they explain, and
// the scale that explains it best.
struct Fit {
  double explained = -1;
  double scale = 0;
  double inverse = 0;
};

Fit FitOf(const float* key, int64_t width, double inverse) {
  double product = 0, square = 0;
  for (int64_t i = 0; i < width; ++i) {
    const double level = Code(key[i] * inverse) - 7.5;
    product += key[i] * level;
    square += level * level;
  }
  return {product * product / square, product / square, inverse};
}

// Parts first … last - 1 of a segment.
void ScorePartsOfCodes(const Backend& backend, const ScoreBankArgs& args, const KeySegment& segment,
                       int64_t first, int64_t last, float* scores) {
  const int64_t width = args.shape.key_width();
  const int64_t chunk = segment.part_begin[first];
  std::vector<float> keys((segment.part_begin[last] - chunk) * width);
  for (int64_t i = 0; i * width < static_cast<int64_t>(keys.size()); ++i) {
    DecodeKey(segment.codes + (chunk + i) * CodeBytes(width), segment.code_scales[chunk + i], width,
              &keys[i * width]);
  }
  std::vector<int64_t> part_begin;
  for (int64_t p = first; p <= last; ++p) part_begin.push_back(segment.part_begin[p] - chunk);
  const KeySegment decoded{.keys = keys.data(), .part_begin = part_begin};
  backend.ScoreParts({args.shape, decoded, args.queries, args.query_begin, scores});
}

}  // namespace

bool CanHaveCodes(const RoutingShape& shape) {
  const int width = shape.key_width();
  return shape.folded() && shape.chunk == Reduce::kMax && shape.scale >= 0 && width % kGroup == 0 &&
         width <= kMaxWidth;
}

void EncodeKey(const float* key, int64_t width, uint8_t* codes, float* scale) {
  double largest = 0;
  bool finite = true;
  for (int64_t i = 0; i < width; ++i) {
    finite = finite && std::isfinite(key[i]);
    largest = std::max<double>(largest, std::abs(key[i]));
  }
  Fit best;
  // Steps from one that reaches the largest element down to one that reaches a third of it.
  for (int i = 0; i < kSteps && finite && largest > kTooSmall; ++i) {
    const Fit fit = FitOf(key, width, 8 / (largest * (1 - i / 18.0)));
    if (fit.explained > best.explained) best = fit;
  }
  *scale = finite ? static_cast<float>(best.scale) : std::numeric_limits<float>::quiet_NaN();
  for (int64_t byte = 0; byte < CodeBytes(width); ++byte) {
    const int64_t low = byte / (kGroup / 2) * kGroup + byte % (kGroup / 2);
    const int x = finite ? Code(key[low] * best.inverse) : 0;
    const int y = finite ? Code(key[low + kGroup / 2] * best.inverse) : 0;
    codes[byte] = static_cast<uint8_t>(x | y << 4);
  }
}

void DecodeKey(const uint8_t* codes, float scale, int64_t width, float* key) {
  for (int64_t byte = 0; byte < CodeBytes(width); ++byte) {
    const int64_t low = byte / (kGroup / 2) * kGroup + byte % (kGroup / 2);
    key[low] = scale * (static_cast<float>(codes[byte] & 15) - 7.5f);
    key[low + kGroup / 2] = scale * (static_cast<float>(codes[byte] >> 4) - 7.5f);
  }
}

void ScoreCodes(const Backend& backend, const ScoreBankArgs& args) {
  MSA_CHECK(CanHaveCodes(args.shape));
  const auto num_questions = static_cast<int64_t>(args.query_begin.size()) - 1;
  int64_t num_parts = 0;
  for (const KeySegment& segment : args.segments) num_parts += segment.num_parts();
  const int64_t at_once = std::max<int64_t>(1, kDecodedFloats / args.shape.key_width());
  std::vector<float> scores;
  int64_t column = 0;
  for (const KeySegment& segment : args.segments) {
    for (int64_t first = 0, last = 0; first < segment.num_parts(); first = last) {
      for (last = first + 1; last < segment.num_parts(); ++last) {
        if (segment.part_begin[last + 1] - segment.part_begin[first] > at_once) break;
      }
      const int64_t parts = last - first;
      scores.resize(num_questions * parts);
      ScorePartsOfCodes(backend, args, segment, first, last, scores.data());
      for (int64_t q = 0; q < num_questions; ++q) {
        std::copy_n(&scores[q * parts], parts, args.scores + q * num_parts + column);
      }
      column += parts;
    }
  }
  if (args.errors != nullptr) {
    std::fill_n(args.errors, num_questions, std::numeric_limits<float>::quiet_NaN());
  }
}

}  // namespace msa::kernels

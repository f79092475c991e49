// The routing pass on a GPU against the oracle: formats, odd shapes, reductions, several segments,
// parts of 0 … many chunks, NaN; and scores that do not depend, to the bit, on company, place or
// grouping. Usage: routing_gpu_test [all | quick] (quick: for compute-sanitizer).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/routing_case.cuh"
#include "tests/gpu/routing_device.cuh"
#include "tests/gpu/routing_oracle.cuh"

namespace msa::kernels::cuda {
namespace {

void TestFormatsAndWidths() {
  uint32_t seed = 1;
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : kPrecisions) {
      for (const int width : {16, 48, 192, 256, 1024, 1040, 4096}) {
        for (const int rows : {1, 8, 9, 31, 64, 70}) {
          if (width > 1024 && rows > 31) continue;
          const Case c = MakeCase(Folded(1, width, 0.7f), format, precision, {401}, {rows}, seed++);
          ExpectMatchesOracle(c, Score(c),
                              Name("width", format, precision) + " " + std::to_string(width) +
                                  " rows " + std::to_string(rows));
        }
      }
    }
  }
}

// More than one tile a block, several segments (some empty or tiny), several questions.
void TestSegmentsAndQuestions() {
  uint32_t seed = 1000;
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : kPrecisions) {
      const Case c = MakeCase(Folded(4, 16, 0.5f), format, precision,
                              {3, 0, 17000, 1, 128, 20011, 0, 5}, {1, 11, 32, 2}, seed++);
      ExpectMatchesOracle(c, Score(c), Name("segments", format, precision));
    }
  }
}

// kThroughput: many rows, questions that end inside a tile or a block of columns, several rounds.
void TestThroughput() {
  uint32_t seed = 4000;
  const QueryPrecision precision = QueryPrecision::kThroughput;
  for (const KeyFormat format : kFormats) {
    for (const int width : {32, 192, 1024}) {
      for (const std::vector<int>& rows :
           {std::vector<int>{1}, std::vector<int>{300}, std::vector<int>{1, 40, 7, 256, 8, 300},
            std::vector<int>(70, 3), std::vector<int>(520, 1)}) {
        const int64_t chunks = rows.size() > 6 ? 401 : 700;
        const Case c =
            MakeCase(Folded(1, width, 0.7f), format, precision, {chunks, 0, 5, 260}, rows, seed++);
        const std::vector<float> scores = Score(c);
        ExpectMatchesOracle(
            c, scores, Name("throughput", format, precision) + " width " + std::to_string(width));
        if (format != KeyFormat::kBFloat16) continue;
        Case single = c;
        single.precision = QueryPrecision::kSingle;
        Expect(SameBits(scores, Score(single)), "the bits of kSingle");
      }
    }
    Case c =
        MakeCase(Folded(4, 16, 0.5f), format, precision, {17000, 3, 40011, 0, 5}, {64}, seed++);
    ExpectMatchesOracle(c, Score(c), Name("throughput segments", format, precision));
    Expect(SameBits(Score(c), Score(c)), Name("throughput repeatable", format, precision));
  }
}

// Every number of column tiles that a block of columns may have, and one more.
void TestBlocksOfColumns() {
  uint32_t seed = 6000;
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : {QueryPrecision::kSplit, QueryPrecision::kThroughput}) {
      for (int tiles = 1; tiles <= 33; ++tiles) {
        const Case c =
            MakeCase(Folded(1, 64, 0.7f), format, precision, {300}, {8 * tiles - 3}, seed++);
        ExpectMatchesOracle(c, Score(c),
                            Name("blocks", format, precision) + " tiles " + std::to_string(tiles));
      }
    }
  }
}

// Every width that a block of columns has, in one and in two: a question has the best of what two
// shares of its rows have, to the bit.
void TestBlocks() {
  uint32_t seed = 6000;
  for (const auto& [format, precision] :
       {std::pair{KeyFormat::kBFloat16, QueryPrecision::kThroughput},
        std::pair{KeyFormat::kFloat8, QueryPrecision::kSplit},
        std::pair{KeyFormat::kFloat8, QueryPrecision::kThroughput},
        std::pair{KeyFormat::kInt8, QueryPrecision::kSplit},
        std::pair{KeyFormat::kInt8, QueryPrecision::kThroughput},
        std::pair{KeyFormat::kInt8, QueryPrecision::kOnePiece}}) {
    for (const int rows : {5,   11,  24,  32,  44,  52,  63,  65,  73,  82,  90,  99,
                           106, 115, 125, 139, 150, 170, 180, 205, 219, 235, 250, 410}) {
      const Case c =
          MakeCase(Folded(1, 160, 0.7f), format, precision, {300, 0, 5, 270}, {rows}, seed++);
      const std::vector<float> scores = Score(c);
      const std::string name = Name("blocks", format, precision) + " rows " + std::to_string(rows);
      ExpectMatchesOracle(c, scores, name);
      std::vector<float> best = Score(Rows(c, 0, rows / 3));
      const std::vector<float> rest = Score(Rows(c, rows / 3, rows));
      for (size_t i = 0; i < best.size(); ++i) best[i] = std::max(best[i], rest[i]);
      Expect(SameBits(scores, best), name + ": shares");
    }
  }
}

// No score is further from the exact pass's than the error, whatever the rows are like: with one
// large element, tiny, zero.
void TestErrors() {
  uint32_t seed = 7000;
  for (const auto& [format, precision] :
       {std::pair{KeyFormat::kBFloat16, QueryPrecision::kSingle},
        std::pair{KeyFormat::kBFloat16, QueryPrecision::kThroughput},
        std::pair{KeyFormat::kFloat8, QueryPrecision::kThroughput},
        std::pair{KeyFormat::kInt8, QueryPrecision::kThroughput},
        std::pair{KeyFormat::kInt8, QueryPrecision::kOnePiece}}) {
    for (const int width : {32, 192, 1024, 4096}) {
      Case c =
          MakeCase(Folded(1, width, 0.7f), format, precision, {300, 5}, {40, 1, 1, 1, 96}, seed++);
      for (int i = 0; i < width; ++i) {
        c.queries[40 * width + i] *= i == 7 ? 100.0f : 1.0f;
        c.queries[41 * width + i] *= 1e-30f;
        c.queries[42 * width + i] = 0;
      }
      const std::vector<float> scores = Score(c);
      const std::vector<float> errors = Errors(c);
      Case exact = c;
      exact.precision = QueryPrecision::kSplit;
      const std::vector<float> want = Score(exact);
      double worst = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        if (want[i] == kNoScore) continue;
        const double off = std::fabs(static_cast<double>(scores[i]) - want[i]);
        const double error = errors[i / c.num_parts()];
        Expect(off <= error, Name("error", format, precision) + " width " + std::to_string(width) +
                                 ": " + std::to_string(off) + " > " + std::to_string(error));
        if (error > 0) worst = std::max(worst, off / error);
      }
      // Of questions of norm 1 and keys of norm sqrt(width).
      std::printf("%s width %d: error %.3g of the norms, at most %.2f of it found\n",
                  Name("bound", format, precision).c_str(), width,
                  errors[0] / (0.7 * std::sqrt(static_cast<double>(width))), worst);
      Expect(errors[0] < 0.02 * std::sqrt(static_cast<double>(width)),
             Name("error of use", format, precision));
    }
  }
}

void TestReductions() {
  uint32_t seed = 2000;
  for (const Reduce head : {Reduce::kMean, Reduce::kMax}) {
    for (const Reduce query : {Reduce::kMean, Reduce::kMax, Reduce::kLast}) {
      for (const Reduce chunk : {Reduce::kMean, Reduce::kMax}) {
        for (const KeyFormat format : kFormats) {
          for (const int head_dim : {16, 20}) {
            RoutingShape shape = Folded(3, head_dim, 0.7f);
            shape.head = head;
            shape.query = query;
            shape.chunk = chunk;
            const Case c =
                MakeCase(shape, format, QueryPrecision::kSplit, {151, 40}, {1, 7, 2}, seed++);
            ExpectMatchesOracle(c, Score(c),
                                "reductions " + std::to_string(static_cast<int>(head)) +
                                    std::to_string(static_cast<int>(query)) +
                                    std::to_string(static_cast<int>(chunk)));
          }
        }
      }
    }
  }
}

void TestEmpty() {
  Case c = MakeCase(Folded(2, 16), KeyFormat::kBFloat16, QueryPrecision::kSplit, {0, 0}, {3}, 5);
  c.part_begin = {{0, 0, 0}, {0}};
  const std::vector<float> scores = Score(c);
  Expect(scores.size() == 2 && scores[0] == kNoScore && scores[1] == kNoScore, "only empty parts");
}

// A NaN key (or scale, or question) shows in the scores it reaches and in no other.
void TestNan() {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const KeyFormat format : kFormats) {
    for (const bool general : {false, true}) {
      RoutingShape shape = Folded(2, 32);
      Case c = MakeCase(shape, format, QueryPrecision::kSplit, {300}, {4, 4}, 77);
      c.part_begin[0] = {0, 100, 101, 300};
      Case broken = c;
      if (format == KeyFormat::kFloat32) {
        std::memcpy(&broken.segments[0].bytes[(100 * 64 + 5) * 4], &nan, 4);
      } else if (format == KeyFormat::kBFloat16) {
        const uint16_t bits = 0xFFC0;
        std::memcpy(&broken.segments[0].bytes[(100 * 64 + 5) * 2], &bits, 2);
      } else if (format == KeyFormat::kInt8) {
        broken.segments[0].scales[100] = nan;
      } else {
        broken.segments[0].bytes[100 * 64 + 5] = 0x7F;
      }
      std::vector<float> scores = Score(broken, general);
      for (int i = 0; i < 6; ++i) {
        Expect(std::isnan(scores[i]) == (i % 3 == 1), Name("NaN key", format, c.precision));
      }
      broken = c;
      broken.queries[5 * 64 + 3] = -nan;  // second question
      scores = Score(broken, general);
      for (int i = 0; i < 6; ++i) {
        Expect(std::isnan(scores[i]) == (i >= 3), Name("NaN query", format, c.precision));
      }
    }
  }
}

// All scores of one sign, zero questions: orders of the atomic maximum.
void TestSigns() {
  Case c = MakeCase(Folded(1, 16), KeyFormat::kFloat32, QueryPrecision::kSplit, {2000}, {1}, 9);
  for (const float sign : {-1.0f, 0.0f, 1.0f}) {
    for (float& q : c.queries) q = sign;
    float* keys = reinterpret_cast<float*>(c.segments[0].bytes.data());
    for (int i = 0; i < 2000 * 16; ++i) {
      keys[i] = std::fabs(keys[i]);
      c.segments[0].values[i] = keys[i];
    }
    c.part_begin[0] = {0, 2000};
    const float score = Score(c)[0];
    Expect(std::fabs(score - Oracle(c)[0]) < 1e-5, "sign " + std::to_string(sign));
  }
}

// Chunks begin … end-1 of the first segment as one part in a segment of their own.
Case OnePart(const Case& c, int64_t begin, int64_t end) {
  Case one = c;
  const int64_t row = static_cast<int64_t>(c.segments[0].bytes.size()) / c.segments[0].num_chunks;
  Keys& keys = one.segments[0];
  keys.bytes.assign(c.segments[0].bytes.begin() + begin * row,
                    c.segments[0].bytes.begin() + end * row);
  if (!keys.scales.empty()) {
    keys.scales.assign(c.segments[0].scales.begin() + begin, c.segments[0].scales.begin() + end);
  }
  const int width = c.shape.key_width();
  keys.values.assign(c.segments[0].values.begin() + begin * width,
                     c.segments[0].values.begin() + end * width);
  keys.num_chunks = end - begin;
  one.part_begin[0] = {0, end - begin};
  return one;
}

// A question has the best of its rows' scores, each asked alone: another pass than many rows take.
void ExpectBestOfRows(const Case& c, int question, const std::vector<float>& together) {
  const int64_t parts = c.num_parts();
  std::vector<float> best(parts, kNoScore);
  for (int r = c.query_begin[question]; r < c.query_begin[question + 1]; ++r) {
    const std::vector<float> scores = Score(Rows(c, r, r + 1));
    for (int64_t p = 0; p < parts; ++p) best[p] = std::max(best[p], scores[p]);
  }
  const auto from = together.begin() + question * parts;
  Expect(SameBits(best, std::vector<float>(from, from + parts)),
         Name("rows alone", c.format, c.precision));
}

void TestBits() {
  uint32_t seed = 3000;
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : kPrecisions) {
      for (const int width : {192, 1024}) {
        const Case c = MakeCase(Folded(1, width, 0.3f), format, precision, {1500},
                                {1, 5, 40, 2, 33, 1}, seed++);
        const std::vector<float> together = Score(c);
        const int64_t parts = c.num_parts();
        Expect(SameBits(together, Score(c)), Name("repeatable", format, precision));
        for (int q = 0; q < c.num_questions(); ++q) {
          const std::vector<float> slice(together.begin() + q * parts,
                                         together.begin() + (q + 1) * parts);
          Expect(SameBits(slice, Score(OneQuestion(c, q))), Name("company", format, precision));
        }
        ExpectBestOfRows(c, 2, together);
        std::vector<int64_t> begin = c.part_begin[0];
        for (size_t p = 0; p + 1 < begin.size(); p += 7) {
          if (begin[p] == begin[p + 1]) continue;
          const std::vector<float> alone = Score(OnePart(c, begin[p], begin[p + 1]));
          for (int q = 0; q < c.num_questions(); ++q) {
            Expect(alone[q] == together[q * parts + p], Name("place", format, precision));
          }
        }
        Case single = c;
        single.part_begin[0].resize(1501);
        for (int64_t i = 0; i <= 1500; ++i) single.part_begin[0][i] = i;
        const std::vector<float> of_chunks = Score(single);
        for (int q = 0; q < c.num_questions(); ++q) {
          for (int64_t p = 0; p < parts; ++p) {
            float best = kNoScore;
            for (int64_t i = begin[p]; i < begin[p + 1]; ++i) {
              best = std::max(best, of_chunks[q * 1500 + i]);
            }
            Expect(best == together[q * parts + p], Name("grouping", format, precision));
          }
        }
      }
    }
  }
}

int Run(const std::string& which) {
  TestEmpty();
  TestSigns();
  TestNan();
  TestReductions();
  if (which == "all") {
    TestFormatsAndWidths();
    TestSegmentsAndQuestions();
    TestBits();
    TestThroughput();
    TestBlocksOfColumns();
    TestBlocks();
  }
  TestErrors();
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision :
         {QueryPrecision::kSplit, QueryPrecision::kSingle, QueryPrecision::kThroughput,
          QueryPrecision::kOnePiece}) {
      std::printf("%s: worst error %.3g\n", Name("scores", format, precision).c_str(),
                  WorstErrors()[static_cast<int>(format)][static_cast<int>(precision)]);
    }
  }
  return ::msa::testing::Finish("routing");
}

}  // namespace
}  // namespace msa::kernels::cuda

int main(int argc, char** argv) { return msa::kernels::cuda::Run(argc > 1 ? argv[1] : "all"); }

#include "tests/support/memory_shard_contract.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "common/crc32c.h"
#include "common/limits.h"
#include "common/strings.h"
#include "gmock/gmock.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/memory_shard_story.h"

namespace msa::testing {

// Instantiated by the programs that have a shard to test.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(MemoryShardContract);

namespace {

using ::testing::HasSubstr;

TEST_P(MemoryShardContract, AnUnknownBankIsNamed) {
  const std::vector<absl::Status> statuses = {
      shard().DeleteBank(ctx_, "nowhere"),
      shard()
          .PutDocument(ctx_, MakeDocument(TestBank(DType::kFloat32, DType::kFloat32, "nowhere"),
                                          {.id = "a"}))
          .status(),
      shard().DeleteDocument(ctx_, "nowhere", "a").status(),
      shard().GetDocument(ctx_, "nowhere", "a").status(),
      shard().ListDocuments(ctx_, "nowhere", "", 10).status(),
      shard().GetParts(ctx_, "nowhere", 1, {}).status(),
      shard().OpenSnapshot(ctx_, "nowhere", absl::Seconds(1)).status(),
      shard().Route(ctx_, {"nowhere", 1, 0, 2, 1, MakeQueries(kBank, 1, 1)}).status(),
      shard().Rank(ctx_, {"nowhere", 1, 0, 1, false, {}}).status(),
      shard().FetchBlocks(ctx_, {"nowhere", 1, {}, {}}, [](auto) { return absl::OkStatus(); }),
      shard().Stats(ctx_, "nowhere").status()};
  for (size_t i = 0; i < statuses.size(); ++i) {
    EXPECT_EQ(statuses[i].code(), absl::StatusCode::kNotFound) << i;
    EXPECT_THAT(std::string(statuses[i].message()), HasSubstr("nowhere")) << i;
  }
}

TEST_P(MemoryShardContract, ADocumentComesBackWhole) {
  Story story(shard());
  const auto put = story.Put({.id = "a/ä 1",
                              .first_reference = 5,
                              .part_tokens = {64, 9},
                              .seed = 3,
                              .title = "Title",
                              .text = "first half, second half"});
  EXPECT_EQ(put.revision, 1u);
  EXPECT_EQ(put.num_tokens, 73);
  EXPECT_EQ(put.num_chunks, 16 + 3);
  EXPECT_EQ(put.num_parts, 2);
  auto document = shard().GetDocument(ctx_, kBank.name, "a/ä 1");
  ASSERT_OK(document.status());
  EXPECT_EQ(document->full_text, "Title\nfirst half, second half");
  EXPECT_EQ(document->info.id, "a/ä 1");
  EXPECT_EQ(document->info.title, "Title");
  EXPECT_EQ(document->info.metadata, "{\"seed\":3}");
  EXPECT_EQ(document->info.revision, 1u);
  EXPECT_EQ(document->info.text_bytes, document->full_text.size());
  ASSERT_EQ(document->info.parts.size(), 2u);
  EXPECT_EQ(document->info.parts[1].reference, 6);
  EXPECT_EQ(document->info.parts[1].num_tokens, 9);
  EXPECT_EQ(document->info.parts[1].routing_chunks, 3);
  EXPECT_EQ(document->info.parts[1].span, story.part(6).span);
}

TEST_P(MemoryShardContract, RevisionsGoOnThroughReplaceAndDelete) {
  Story story(shard());
  EXPECT_EQ(story.Put({.id = "a", .first_reference = 0}).revision, 1u);
  EXPECT_EQ(story.Put({.id = "a", .first_reference = 1}).revision, 2u);
  auto deleted = shard().DeleteDocument(ctx_, kBank.name, "a");
  ASSERT_OK(deleted.status());
  EXPECT_EQ(*deleted, 2u);
  ASSERT_CODE(shard().DeleteDocument(ctx_, kBank.name, "a").status(), kNotFound);
  ASSERT_CODE(shard().GetDocument(ctx_, kBank.name, "a").status(), kNotFound);
  EXPECT_EQ(story.Put({.id = "a", .first_reference = 2}).revision, 3u);
}

TEST_P(MemoryShardContract, DeletesOfManyReportEach) {
  Story story(shard());
  story.Put({.id = "a", .first_reference = 0});
  story.Put({.id = "b", .first_reference = 1});
  story.Put({.id = "c", .first_reference = 2});
  const auto results = shard().DeleteDocuments(ctx_, kBank.name, {{"c", "none", "a"}});
  ASSERT_OK(results.status());
  ASSERT_EQ(results->size(), 3u);
  EXPECT_EQ((*results)[0].id, "c");
  EXPECT_EQ((*results)[0].revision, 1u);
  ASSERT_CODE((*results)[1].status, kNotFound);
  EXPECT_EQ((*results)[2].id, "a");
  ASSERT_OK((*results)[2].status);
  ASSERT_CODE(shard().GetDocument(ctx_, kBank.name, "a").status(), kNotFound);
  ASSERT_OK(shard().GetDocument(ctx_, kBank.name, "b").status());
  const std::vector<std::string> many(257, "b");
  ASSERT_CODE(shard().DeleteDocuments(ctx_, kBank.name, many).status(), kInvalidArgument);
}

TEST_P(MemoryShardContract, ARepeatedPutIsOnePut) {
  Story story(shard());
  EXPECT_EQ(story.Put({.id = "a", .first_reference = 3}).revision, 1u);
  EXPECT_EQ(story.Put({.id = "a", .first_reference = 3}).revision, 1u);
  const auto other = MakeDocument(kBank, {.id = "b", .first_reference = 3});
  ASSERT_CODE(shard().PutDocument(ctx_, other).status(), kInvalidArgument);
  // The same document as another node encodes it.
  const auto first = MakeDocument(kBank, {.id = "a", .first_reference = 3});
  auto again = MakeDocument(
      kBank, {.id = "a", .first_reference = 3, .seed = 9, .text = first.document.text});
  again.document = first.document;
  const auto repeated = shard().PutDocument(ctx_, again);
  ASSERT_OK(repeated.status());
  EXPECT_EQ(repeated->revision, 1u);
  const auto changed = MakeDocument(kBank, {.id = "a", .first_reference = 3, .seed = 9});
  ASSERT_CODE(shard().PutDocument(ctx_, changed).status(), kInvalidArgument);
  EXPECT_EQ(shard().GetDocument(ctx_, kBank.name, "a")->info.revision, 1u);
}

TEST_P(MemoryShardContract, DocumentsThatDoNotFitAreRefusedAndLeaveNothing) {
  Story story(shard());
  using Code = absl::StatusCode;
  const auto refused = [&](Code code, auto change) {
    auto document = MakeDocument(kBank, {.id = "a", .part_tokens = {10, 20}});
    change(document);
    const auto status = shard().PutDocument(ctx_, document).status();
    EXPECT_EQ(status.code(), code) << status;
  };
  const auto set_float = [](rpc::Payload& payload, uint32_t& crc, float value) {
    std::string bytes(payload.view());
    bytes.replace(8, 4, reinterpret_cast<const char*>(&value), 4);
    crc = Crc32c(bytes);
    payload = rpc::Payload(std::move(bytes));
  };
  refused(Code::kFailedPrecondition, [](auto& d) { d.model_fingerprint[0] = 'x'; });
  refused(Code::kFailedPrecondition, [](auto& d) { d.bank_uid = 1; });
  refused(Code::kInvalidArgument, [](auto& d) { d.document.id = ""; });
  refused(Code::kInvalidArgument,
          [](auto& d) { d.document.id = std::string(kMaxDocumentIdBytes + 1, 'i'); });
  refused(Code::kInvalidArgument, [](auto& d) { d.document.id = "a\tb"; });
  // A larger one leaves no numbers for what is added later.
  refused(Code::kInvalidArgument, [](auto& d) { d.parts[1].reference = (int64_t{1} << 62) + 1; });
  refused(Code::kInvalidArgument, [](auto& d) { d.document.id = "\xff"; });
  refused(Code::kInvalidArgument,
          [](auto& d) { d.document.title = std::string(kMaxDocumentTitleBytes + 1, 't'); });
  refused(Code::kInvalidArgument,
          [](auto& d) { d.document.metadata = std::string(kMaxDocumentMetadataBytes + 1, 'm'); });
  refused(Code::kInvalidArgument, [](auto& d) { d.parts.clear(); });
  refused(Code::kInvalidArgument, [](auto& d) { d.parts[0].layers.pop_back(); });
  refused(Code::kInvalidArgument, [](auto& d) { d.parts[1].reference = d.parts[0].reference; });
  refused(Code::kInvalidArgument, [](auto& d) { d.parts[0].reference = -1; });
  refused(Code::kInvalidArgument, [](auto& d) { d.parts[1].span.end = 1000; });
  refused(Code::kInvalidArgument, [](auto& d) { d.parts[0].num_tokens = 40; });
  refused(Code::kInvalidArgument, [](auto& d) { d.parts[0].content_chunks = 1; });
  refused(Code::kInvalidArgument,
          [](auto& d) { d.parts[1].layers[0].routing = rpc::Payload(std::string("short")); });
  refused(Code::kDataLoss, [](auto& d) { d.parts[1].layers[2].routing_crc32c ^= 1; });
  refused(Code::kDataLoss, [](auto& d) { d.parts[0].layers[1].content_crc32c ^= 1; });
  refused(Code::kInvalidArgument, [&](auto& d) {
    auto& layer = d.parts[1].layers[1];
    set_float(layer.routing, layer.routing_crc32c, std::numeric_limits<float>::quiet_NaN());
  });
  refused(Code::kInvalidArgument, [&](auto& d) {
    auto& layer = d.parts[1].layers[1];
    set_float(layer.content, layer.content_crc32c, std::numeric_limits<float>::infinity());
  });
  ASSERT_CODE(shard().GetDocument(ctx_, kBank.name, "a").status(), kNotFound);
  EXPECT_EQ(shard().Stats(ctx_, kBank.name)->num_parts, 0);
  EXPECT_TRUE(story.Route(story.Open(), 2).empty());
  EXPECT_EQ(story.Put({.id = "a", .part_tokens = {10, 20}}).revision, 1u);
}

TEST_P(MemoryShardContract, AnFp8StepThatIsNoNumberIsRefused) {
  const rpc::BankSpec bank = TestBank(DType::kFloat8, DType::kFloat8, "fp8", 79);
  ASSERT_TRUE(shard().CreateBank(ctx_, bank).ok());
  for (const char step : {'\x7f', '\xff'}) {
    for (const bool content : {false, true}) {
      rpc::EncodedDocument document = MakeDocument(bank, {.id = "a"});
      rpc::EncodedLayer& layer = document.parts[0].layers[1];
      std::string bytes((content ? layer.content : layer.routing).view());
      bytes[5] = step;
      (content ? layer.content_crc32c : layer.routing_crc32c) = Crc32c(bytes);
      (content ? layer.content : layer.routing) = rpc::Payload(std::move(bytes));
      ASSERT_CODE(shard().PutDocument(ctx_, document).status(), kInvalidArgument);
    }
  }
  EXPECT_TRUE(shard().PutDocument(ctx_, MakeDocument(bank, {.id = "a"})).ok());
}

TEST_P(MemoryShardContract, DocumentsAreListedInPages) {
  Story story(shard());
  std::vector<std::string> ids;
  for (int i = 0; i < 25; ++i) {
    ids.push_back(StrCat("d", i));
    story.Put({.id = ids.back(), .first_reference = i});
  }
  ids.push_back("d3\xC3\xA9");
  story.Put({.id = ids.back(), .first_reference = 50});
  story.Delete("d7");
  std::erase(ids, "d7");
  std::sort(ids.begin(), ids.end());
  std::vector<std::string> listed;
  while (true) {
    auto page = shard().ListDocuments(ctx_, kBank.name, listed.empty() ? "" : listed.back(), 4);
    ASSERT_OK(page.status());
    ASSERT_LE(page->size(), 4u);
    for (const auto& info : *page) listed.push_back(info.id);
    if (page->size() < 4) break;
  }
  EXPECT_EQ(listed, ids);
  for (int32_t limit : {0, -1, kMaxPageSize + 2}) {
    ASSERT_CODE(shard().ListDocuments(ctx_, kBank.name, "", limit).status(), kInvalidArgument);
  }
}

TEST_P(MemoryShardContract, StatsCountWhatIsThere) {
  Story story(shard());
  story.Put({.id = "a", .first_reference = 0, .part_tokens = {10, 20}});
  story.Put({.id = "b", .first_reference = 2, .part_tokens = {5}});
  story.Put({.id = "b", .first_reference = 3, .part_tokens = {6}});
  story.Put({.id = "c", .first_reference = 4});
  story.Delete("c");
  const uint64_t snapshot = story.Open();
  auto stats = shard().Stats(ctx_, kBank.name);
  ASSERT_OK(stats.status());
  EXPECT_EQ(stats->spec, kBank);
  EXPECT_EQ(stats->num_documents, 2);
  EXPECT_EQ(stats->num_parts, 3);
  EXPECT_EQ(stats->num_tokens, 36);
  EXPECT_EQ(stats->num_chunks, 3 + 5 + 2);
  EXPECT_EQ(stats->open_snapshots, 1);
  EXPECT_EQ(stats->corrupt_records, 0);
  EXPECT_GE(stats->resident_key_bytes, 10 * 3 * 8 * 4);
  EXPECT_GT(stats->disk_bytes, 0);
  ASSERT_OK(shard().CloseSnapshot(ctx_, snapshot));
  if (!under_test_->RunMaintenance()) return;
  EXPECT_EQ(shard().Stats(ctx_, kBank.name)->dead_parts, 0);
  EXPECT_EQ(shard().Stats(ctx_, kBank.name)->open_snapshots, 0);
}

TEST_P(MemoryShardContract, EverythingAcknowledgedIsThereAfterARestart) {
  std::vector<int64_t> live;
  {
    Story story(shard());
    for (int64_t i = 0; i < 30; ++i) {
      story.Put({.id = StrCat("d", i % 20),
                 .first_reference = 2 * i,
                 .part_tokens = {9, 33},
                 .seed = static_cast<uint64_t>(i)});
    }
    story.Delete("d3");
    story.Delete("d15");
  }
  if (!under_test_->Restart()) GTEST_SKIP() << "cannot be restarted";
  EXPECT_EQ(shard().Stats(ctx_, kBank.name)->num_documents, 18);
  auto document = shard().GetDocument(ctx_, kBank.name, "d5");
  ASSERT_OK(document.status());
  EXPECT_EQ(document->info.revision, 2u);
  EXPECT_EQ(document->full_text, "text of d5, seed 25");
  auto snapshot = shard().OpenSnapshot(ctx_, kBank.name, absl::Minutes(1));
  ASSERT_OK(snapshot.status());
  EXPECT_EQ(snapshot->num_parts, 36);
  Story again(shard());
  EXPECT_EQ(again.Route(snapshot->id, 2).size(), 36u);
  int blocks = 0;
  ASSERT_OK(shard().FetchBlocks(ctx_, {kBank.name, snapshot->id, {50, 51}, {2, 3, 5}}, [&](auto) {
    ++blocks;
    return absl::OkStatus();
  }));
  EXPECT_EQ(blocks, 6);
  EXPECT_EQ(again.Put({.id = "d3", .first_reference = 100}).revision, 3u);
  EXPECT_EQ(again.Put({.id = "d15", .first_reference = 101}).revision, 2u);
}

TEST_P(MemoryShardContract, DeadlinesAndCancelledCallersAreHonoured) {
  Story story(shard());
  story.Put({.id = "a"});
  const uint64_t snapshot = story.Open();
  rpc::CallContext late, gone;
  late.deadline = absl::Now() - absl::Seconds(1);
  gone.cancelled = [] { return true; };
  ASSERT_CODE(shard().Route(late, story.Request(snapshot, 2)).status(), kDeadlineExceeded);
  ASSERT_CODE(shard().Route(gone, story.Request(snapshot, 2)).status(), kCancelled);
  ASSERT_CODE(shard().GetDocument(late, kBank.name, "a").status(), kDeadlineExceeded);
  ASSERT_CODE(shard().DeleteDocument(gone, kBank.name, "a").status(), kCancelled);
  ASSERT_OK(shard().GetDocument(ctx_, kBank.name, "a").status());
}

TEST_P(MemoryShardContract, AnAcknowledgedDeleteIsNeverRoutedToAgain) {
  Story story(shard());
  constexpr int kWriters = 2, kRounds = 60, kIds = 8;
  // deleted[r]: the delete of reference r was acknowledged. References are used once.
  std::vector<std::atomic<bool>> deleted(kWriters * kRounds);
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      for (int round = 0; round < kRounds; ++round) {
        const int64_t reference = int64_t{round} * kWriters + writer;
        const std::string id = StrCat("w", writer, ".", round % kIds);
        auto put = shard().PutDocument(
            ctx_, MakeDocument(kBank, {.id = id, .first_reference = reference}));
        EXPECT_TRUE(put.ok()) << put.status();
        if (round % 3 != 0) continue;
        EXPECT_TRUE(shard().DeleteDocument(ctx_, kBank.name, id).ok());
        deleted[reference] = true;
      }
    });
  }
  const uint64_t old = story.Open();
  std::thread reader([&] {
    while (!done) {
      std::vector<bool> before(deleted.begin(), deleted.end());
      for (uint64_t snapshot : {old, story.Open()}) {
        for (int64_t reference : References(story.Route(snapshot, 5, 0, 1000))) {
          EXPECT_FALSE(before[reference]) << reference;
        }
        if (snapshot != old) {
          EXPECT_TRUE(shard().CloseSnapshot(ctx_, snapshot).ok());
        }
      }
      under_test_->RunMaintenance();
    }
  });
  for (std::thread& thread : threads) thread.join();
  done = true;
  reader.join();
}

}  // namespace
}  // namespace msa::testing

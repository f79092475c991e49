// What a router tells of shards and documents to whoever counts them.
#include "router/observer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tests/router/fake_cluster.h"

namespace msa::router {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

constexpr auto kOk = absl::StatusCode::kOk;

// Counts what it hears: of shards by place and code, of documents by code.
class Tally : public Observer {
 public:
  void OnShardAsked(int shard, absl::StatusCode code, absl::Duration took) override {
    EXPECT_GE(took, absl::ZeroDuration());
    absl::MutexLock lock(&mutex_);
    ++asked_[{shard, code}];
  }
  void OnDocument(absl::StatusCode code) override {
    absl::MutexLock lock(&mutex_);
    ++documents_[code];
  }

  // Since the last time.
  std::map<std::pair<int, absl::StatusCode>, int> asked() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(asked_, {});
  }
  std::map<absl::StatusCode, int> documents() {
    absl::MutexLock lock(&mutex_);
    return documents_;
  }

 private:
  absl::Mutex mutex_;
  std::map<std::pair<int, absl::StatusCode>, int> asked_ ABSL_GUARDED_BY(mutex_);
  std::map<absl::StatusCode, int> documents_ ABSL_GUARDED_BY(mutex_);
};

struct ObservedCluster {
  Tally tally;
  FakeCluster cluster{3, 1, [this] {
                        RouterOptions options;
                        options.observer = &tally;
                        return options;
                      }()};
};

TEST(RouterObserver, HearsOfEachShardThatIsAskedOnce) {
  ObservedCluster observed;
  FakeCluster& cluster = observed.cluster;
  cluster.Add(SomeDocuments(30));
  observed.tally.asked();
  ASSERT_TRUE(cluster.router->Stats(cluster.ctx, "default").ok());
  EXPECT_THAT(observed.tally.asked(),
              ElementsAre(Pair(Pair(0, kOk), 1), Pair(Pair(1, kOk), 1), Pair(Pair(2, kOk), 1)));
  ASSERT_TRUE(cluster.router->GetDocument(cluster.ctx, "default", "doc-1").ok());
  const int home = cluster.map.ShardOf("doc-1");
  EXPECT_THAT(observed.tally.asked(), ElementsAre(Pair(Pair(home, kOk), 1)));
}

TEST(RouterObserver, ADeleteOfManyIsNotHeardOfTwice) {
  ObservedCluster observed;
  FakeCluster& cluster = observed.cluster;
  cluster.Add(SomeDocuments(30));
  std::vector<std::string> ids;
  for (int i = 0; i < 30; ++i) ids.push_back(absl::StrCat("doc-", i));
  observed.tally.asked();
  ASSERT_TRUE(cluster.router->DeleteDocuments(cluster.ctx, "default", ids).ok());
  // Which banks there are, and the delete.
  EXPECT_THAT(observed.tally.asked(),
              ElementsAre(Pair(Pair(0, kOk), 2), Pair(Pair(1, kOk), 2), Pair(Pair(2, kOk), 2)));
}

TEST(RouterObserver, AShardThatIsDownIsUnavailable) {
  ObservedCluster observed;
  FakeCluster& cluster = observed.cluster;
  cluster.Add(SomeDocuments(3));
  observed.tally.asked();
  cluster.shards[1].before = [](const std::string&, const rpc::CallContext&) {
    return absl::UnavailableError("connection refused");
  };
  ASSERT_TRUE(cluster.router->Stats(cluster.ctx, "default").ok());
  EXPECT_THAT(observed.tally.asked(),
              ElementsAre(Pair(Pair(0, kOk), 1), Pair(Pair(1, absl::StatusCode::kUnavailable), 1),
                          Pair(Pair(2, kOk), 1)));
}

TEST(RouterObserver, HearsOfEveryDocumentByWhatItsClientHears) {
  ObservedCluster observed;
  std::vector<rpc::NewDocument> documents = SomeDocuments(6);
  documents[2].id = "";
  documents[4].id = documents[0].id;
  observed.cluster.Add(documents);
  EXPECT_THAT(observed.tally.documents(),
              ElementsAre(Pair(kOk, 4), Pair(absl::StatusCode::kInvalidArgument, 2)));
}

}  // namespace
}  // namespace msa::router

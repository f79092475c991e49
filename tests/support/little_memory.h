// A process without memory for another thread.
#ifndef MSA_TESTS_SUPPORT_LITTLE_MEMORY_H_
#define MSA_TESTS_SUPPORT_LITTLE_MEMORY_H_

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

namespace msa::testing {

// While it lives this process gets no more than a few MB: no stack of a thread, 8 MB, but one that
// the C library keeps of a thread that has ended. For a process of its own, a death test.
class LittleMemory {
 public:
  LittleMemory() {
    EXPECT_EQ(getrlimit(RLIMIT_AS, &before_), 0);
    rlim_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit little = before_;
    little.rlim_cur = pages * getpagesize() + (4 << 20);
    EXPECT_EQ(setrlimit(RLIMIT_AS, &little), 0);
  }
  ~LittleMemory() { EXPECT_EQ(setrlimit(RLIMIT_AS, &before_), 0); }

 private:
  rlimit before_;
};

}  // namespace msa::testing

#endif  // MSA_TESTS_SUPPORT_LITTLE_MEMORY_H_

// MSA_CHECK(condition): ends the process with file, line and condition when our own code is wrong.
// Never on what a peer, a disk or a user can cause: those are absl::Status.
#ifndef MSA_COMMON_CHECK_H_
#define MSA_COMMON_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define MSA_CHECK(condition)                                                                   \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      std::fprintf(stderr, "%s:%d: this is a bug, please report it: %s\n", __FILE__, __LINE__, \
                   #condition);                                                                \
      std::abort();                                                                            \
    }                                                                                          \
  } while (false)

#endif  // MSA_COMMON_CHECK_H_

// A child that a test starts, reads and kills. Ended with the object.
#ifndef MSA_TESTS_MEMORY_NODE_CHILD_PROCESS_H_
#define MSA_TESTS_MEMORY_NODE_CHILD_PROCESS_H_

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "common/check.h"

namespace msa::testing {

class ChildProcess {
 public:
  // Its standard output is read by ReadByte.
  explicit ChildProcess(std::vector<std::string> arguments) {
    int ends[2];
    MSA_CHECK(pipe(ends) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    MSA_CHECK(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = ends[0];
  }
  ~ChildProcess() {
    Kill();
    close(output_);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // Waits for output; false when the child has ended.
  bool ReadByte() {
    char byte;
    return read(output_, &byte, 1) == 1;
  }
  bool Running() { return pid_ > 0 && waitpid(pid_, nullptr, WNOHANG) == 0; }
  // kill -9, and waits until it is gone.
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  int output_ = -1;
};

}  // namespace msa::testing

#endif  // MSA_TESTS_MEMORY_NODE_CHILD_PROCESS_H_

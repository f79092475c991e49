// Standard input that can be ended while somebody waits for it: a user may leave it open long after
// the server that its documents go to has died.
#ifndef MSA_CLI_STANDARD_INPUT_H_
#define MSA_CLI_STANDARD_INPUT_H_

#include <streambuf>
#include <vector>

namespace msa::cli {

// Reads a file descriptor, borrowed. One reader; Stop from any thread.
class StandardInput : public std::streambuf {
 public:
  explicit StandardInput(int fd);
  ~StandardInput() override;

  // What is read after this, and whoever waits now, sees the end of the input.
  void Stop();

 protected:
  int_type underflow() override;

 private:
  const int fd_;
  int wake_[2];  // a pipe; readable once stopped
  std::vector<char> buffer_;
};

}  // namespace msa::cli

#endif  // MSA_CLI_STANDARD_INPUT_H_

// What a backend hands out and takes back: each of its own kind.
#ifndef MSA_KERNELS_HANDLES_H_
#define MSA_KERNELS_HANDLES_H_

#include <cstdint>

namespace msa::kernels {

// A weight matrix [out_features, in_features] in the layout its backend wants. Immutable.
class LinearWeights {
 public:
  virtual ~LinearWeights() = default;
  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;
  // Whether products round x to bfloat16, and take it so.
  virtual bool rounds_activations() const { return false; }
};

// A point in the work a backend was asked for. Thread-safe.
class Mark {
 public:
  virtual ~Mark() = default;
  // Returns once all that was asked for before it is done, or the backend has failed.
  virtual void Wait() const = 0;
};

// Operations to be asked for again and again; see Backend::Record. Used by one thread at a time.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void Run() = 0;
};

}  // namespace msa::kernels

#endif  // MSA_KERNELS_HANDLES_H_

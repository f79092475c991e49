#include "kernels/cuda/recording.h"

#include <string>
#include <utility>

#include "common/log.h"

namespace msa::kernels::cuda {
namespace {

class GraphRecording : public Recording {
 public:
  GraphRecording(Device& device, absl::Mutex& launching, std::function<void()> operations)
      : device_(device), launching_(launching), operations_(std::move(operations)) {}

  ~GraphRecording() override {
    if (graph_ == nullptr) return;
    device_.Activate();
    // The last start may still run.
    device_.Wait();
    if (!device_.failed()) cudaGraphExecDestroy(graph_);
  }

  void Run() override {
    const bool first = std::exchange(warm_, true) == false;
    if (!first && recordable_ && graph_ == nullptr) Record();
    if (graph_ == nullptr) return operations_();
    if (device_.failed()) return;
    device_.Activate();
    absl::MutexLock lock(&launching_);
    device_.Check(cudaGraphLaunch(graph_, device_.stream()), "starting a recording");
  }

 private:
  void Record() {
    device_.Activate();
    cudaStream_t stream = nullptr;
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (error == cudaSuccess) {
      error = RecordOn(stream);
      cudaStreamDestroy(stream);
    }
    recordable_ = error == cudaSuccess;
    if (recordable_) return;
    cudaGetLastError();  // no failure of the device
    Log(LogLevel::kWarning, "operations cannot be recorded and are started one by one",
        {{"error", std::string(cudaGetErrorString(error))}});
  }

  cudaError_t RecordOn(cudaStream_t stream) {
    cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (error != cudaSuccess) return error;
    {
      Device::RecordingScope scope(device_, stream);
      operations_();
      error = scope.error();
    }
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
    if (error == cudaSuccess) error = ended;
    if (error == cudaSuccess) error = cudaGraphInstantiate(&graph_, graph, 0);
    if (error != cudaSuccess) graph_ = nullptr;
    if (graph != nullptr) cudaGraphDestroy(graph);
    return error;
  }

  Device& device_;
  absl::Mutex& launching_;
  const std::function<void()> operations_;
  bool warm_ = false;
  bool recordable_ = true;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace

std::unique_ptr<Recording> MakeRecording(Device& device, absl::Mutex& launching,
                                         std::function<void()> operations) {
  return std::make_unique<GraphRecording>(device, launching, std::move(operations));
}

}  // namespace msa::kernels::cuda

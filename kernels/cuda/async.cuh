// Names for the machine's own instructions that start and wait: asynchronous copies, barriers of
// shared memory, of warps and of clusters, the order of kernels. sm_80 and later unless said. PTX
// ISA 8.7, sections 9.7.
#ifndef MSA_KERNELS_CUDA_ASYNC_CUH_
#define MSA_KERNELS_CUDA_ASYNC_CUH_

#include <cstdint>

namespace msa::kernels::cuda {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void BarrierInit(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ inline void BarrierArrive(uint32_t barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier)
               : "memory");
}

// Waits until the phase of this parity has completed.
__device__ inline void BarrierWait(uint32_t barrier, uint32_t parity) {
  [[maybe_unused]] constexpr uint32_t kLongWaitNs = 10'000'000;
  uint32_t done = 0;
  while (done == 0) {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2, %3; "
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity), "r"(kLongWaitNs)  // asks less often
        : "memory");
#else
    asm volatile(
        "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#endif
  }
}

// Copies 16 bytes past the L1 cache; reads only `bytes` of them and fills up with zeros.
__device__ inline void CopyAsync16(uint32_t to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}

// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// One of the barrier's arrivals, made when all copies this thread has started are complete.
__device__ inline void BarrierArriveAfterCopies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// sm_90. Barriers that this thread has initialised are seen by the copy engine.
__device__ inline void FenceBarrierInit() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// sm_90. One arrival, and `bytes` more to come by CopyBulk.
__device__ inline void BarrierExpect(uint32_t barrier, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
#endif
}

// sm_90. `bytes` is a multiple of 16, as are both addresses.
__device__ inline void CopyBulk(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
#endif
}

// sm_90. The same to the same place in every block of the cluster named by a bit of `blocks`; each
// one's own barrier at that place counts the bytes.
__device__ inline void CopyBulkToCluster(uint32_t to, const void* from, uint32_t bytes,
                                         uint32_t barrier, uint16_t blocks) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], "
      "[%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "h"(blocks)
      : "memory");
#endif
}

// sm_90. One arrival at the barrier at this place in another block of the cluster. Says that this
// thread has done with reading: a release of writes to the cluster would cost a fence of the
// device.
__device__ inline void BarrierArriveAt(uint32_t barrier, uint32_t block) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1; "
      "mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(barrier),
      "r"(block)
      : "memory");
#endif
}

// sm_90. All threads of all blocks of the cluster.
__device__ inline void ClusterBarrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
#endif
}

// sm_90. What is written to shared memory, and seen by this thread, is seen by the matrix units.
__device__ inline void FenceForMatrixUnits() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// The next kernel of the stream may start (sm_90; before, it starts when this one has ended).
__device__ inline void AllowDependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits until the kernel before this one has ended and its writes are seen.
__device__ inline void WaitForPrerequisites() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Barrier `id` (1 … 15) among `threads` threads of the block.
__device__ inline void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace msa::kernels::cuda

#endif  // MSA_KERNELS_CUDA_ASYNC_CUH_

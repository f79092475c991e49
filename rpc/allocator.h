// How the process's allocator treats memory that was freed. Only rpc/*.cc includes this header.
#ifndef MSA_RPC_ALLOCATOR_H_
#define MSA_RPC_ALLOCATOR_H_

namespace msa::rpc {

// Makes glibc keep up to 256 MiB of freed memory an arena for reuse, blocks of up to 32 MiB
// included. With its defaults every received slice of a megabyte is mapped, zeroed page by page and
// unmapped again: measured by benchmarks/fetch_bench, FetchBlocks then costs 1.2 s of processor
// time a gigabyte instead of 0.77. Once a process, at its first client or server; nothing where
// MALLOC_TRIM_THRESHOLD_ is set in the environment. Thread-safe.
void KeepFreedMemory();

}  // namespace msa::rpc

#endif  // MSA_RPC_ALLOCATOR_H_

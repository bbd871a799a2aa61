/* instructions: what C++ has no name for: the tensor cores' m16n8k16 (sm_80 and later), loads of
 * fragments, asynchronous copies. PTX ISA 7.0, "mma", "ldmatrix", "cp.async". */
#ifndef HLM_EXEC_CUDA_INSTRUCTIONS_CUH
#define HLM_EXEC_CUDA_INSTRUCTIONS_CUH

#include "exec/cuda/device.cuh"

/* c += a b; who holds what: mma.cuh */
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t shared_address(const void *pointer)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/* Four 8 x 8 matrices; lanes 8 i .. 8 i + 7 name the rows of matrix i. */
__device__ inline void ldmatrix(uint32_t (&to)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ inline void ldmatrix_transposed(uint32_t (&to)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* 16 bytes from global to shared memory, zeros when not `there` (from must be a valid address). */
__device__ inline void copy_16(bf16 *to, const bf16 *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_address(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

__device__ inline void commit_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All committed copies of this thread; others' are there behind a barrier. */
__device__ inline void wait_copies()
{
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

#endif

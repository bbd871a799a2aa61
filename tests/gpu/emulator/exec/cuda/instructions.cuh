/* The emulator's instructions of tensor cores and copies, after the PTX ISA's tables. */
#ifndef HLM_EXEC_CUDA_INSTRUCTIONS_CUH
#define HLM_EXEC_CUDA_INSTRUCTIONS_CUH

#include "exec/cuda/device.cuh"

struct mma_inputs {
    uint32_t a[4], b[2];
};

/* Element `half` (0 or 1) of a register that holds two. */
inline float half_of(uint32_t two, int half)
{
    return to_float(bf16{static_cast<uint16_t>(two >> (16 * half))});
}

/* A [16, 16]: register (row / 8) + 2 * (k / 8) of lane 4 * (row % 8) + k % 8 / 2 */
template <class All> inline float a_at(const All &all, int row, int k)
{
    const mma_inputs &from = all.of(4 * (row % 8) + k % 8 / 2);
    return half_of(from.a[row / 8 + 2 * (k / 8)], k % 2);
}

/* B [16, 8]: register k / 8 of lane 4 * col + k % 8 / 2 */
template <class All> inline float b_at(const All &all, int k, int col)
{
    return half_of(all.of(4 * col + k % 8 / 2).b[k / 8], k % 2);
}

/* C [16, 8]: number 2 * (row / 8) + col % 2 of lane 4 * (row % 8) + col / 2 */
inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    const auto all = emulated_exchange("mma", mma_inputs{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    for (int i = 0; i < 4; i++) {
        const int row = emulated_lane() / 4 + i / 2 * 8, col = emulated_lane() % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++) {
            c[i] += a_at(all, row, k) * b_at(all, k, col);
        }
    }
}

/* Register i holds row lane / 4, columns 2 * (lane % 4) and the next, of matrix i, whose row r lane
 * 8 * i + r names; transposed: the same of the transposed matrix. */
inline void load_matrices(uint32_t (&to)[4], const bf16 *row, bool transposed)
{
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        emulated_fail("ldmatrix of a row that is not aligned to 16 bytes");
    }
    const auto all = emulated_exchange(transposed ? "ldmatrix.trans" : "ldmatrix", row);
    for (int i = 0; i < 4; i++) {
        uint32_t bits = 0;
        for (int half = 0; half < 2; half++) {
            const int first = emulated_lane() / 4, second = emulated_lane() % 4 * 2 + half;
            const bf16 element =
                transposed ? all.of(8 * i + second)[first] : all.of(8 * i + first)[second];
            bits |= static_cast<uint32_t>(element.bits) << (16 * half);
        }
        to[i] = bits;
    }
}

inline void ldmatrix(uint32_t (&to)[4], const bf16 *row)
{
    load_matrices(to, row, false);
}

inline void ldmatrix_transposed(uint32_t (&to)[4], const bf16 *row)
{
    load_matrices(to, row, true);
}

/* As late as is allowed: at the wait. */
inline void copy_16(bf16 *to, const bf16 *from, bool there)
{
    emulated_copy(to, from, there ? 16 : 0);
}

inline void commit_copies()
{
    emulated_commit();
}

inline void wait_copies()
{
    emulated_wait();
}

#endif

/* mma: tensor-core products of bf16 with fp32 sums, for warps: the instruction m16n8k16 of sm_80
 * and later, fragments from tiles in shared memory, and copies of such tiles that run beside.
 *
 * With lane = 4 * g + t (g 0..7, t 0..3) a lane of a warp holds (PTX ISA, "Matrix fragments for
 * mma.m16n8k16"):
 *   a[4]  of A [16 rows, 16 k]: (g, 2t..2t+1), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..)
 *   b[2]  of B [16 k, 8 cols]: (k 2t..2t+1, col g), (k 2t + 8.., col g)
 *   c[4]  of C [16 rows, 8 cols]: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
 * so two neighbouring C blocks, rounded, are an A fragment of 16 k: fragment_of.
 */
#ifndef HLM_EXEC_CUDA_MMA_CUH
#define HLM_EXEC_CUDA_MMA_CUH

#include "exec/cuda/device.cuh"
#include "exec/cuda/instructions.cuh"

/* Elements between rows of a tile with D columns: 16 bytes more than a row has, so that the
 * distance is an odd number of 16 bytes and the eight rows that ldmatrix reads at once lie in
 * different banks.
 */
template <int D> constexpr int TILE_STRIDE = D + 8;

__device__ inline int lane_id()
{
    return static_cast<int>(threadIdx.x) % WARP;
}

/* A = tile[row0 .. +16][k0 .. +16] */
template <int D> __device__ inline void load_a(uint32_t (&a)[4], const bf16 *tile, int row0, int k0)
{
    const int lane = lane_id();
    ldmatrix(a, tile + (row0 + lane % 16) * TILE_STRIDE<D> + k0 + lane / 16 * 8);
}

/* Two neighbouring B blocks of 8 columns, b[0..1] and b[2..3], of the tile's transpose: B[k][col] =
 * tile[col0 + col][k0 + k] */
template <int D>
__device__ inline void load_b_of_rows(uint32_t (&b)[4], const bf16 *tile, int col0, int k0)
{
    const int lane = lane_id();
    ldmatrix(b, tile + (col0 + lane % 8 + lane / 16 * 8) * TILE_STRIDE<D> + k0 + lane / 8 % 2 * 8);
}

/* The same of the tile as it is: B[k][col] = tile[k0 + k][col0 + col] */
template <int D> __device__ inline void load_b(uint32_t (&b)[4], const bf16 *tile, int k0, int col0)
{
    const int lane = lane_id();
    ldmatrix_transposed(b, tile + (k0 + lane % 16) * TILE_STRIDE<D> + col0 + lane / 16 * 8);
}

__device__ inline uint32_t pair_of(float low, float high)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

__device__ inline void fragment_of(uint32_t (&a)[4], const float (&left)[4],
                                   const float (&right)[4])
{
    a[0] = pair_of(left[0], left[1]);
    a[1] = pair_of(left[2], left[3]);
    a[2] = pair_of(right[0], right[1]);
    a[3] = pair_of(right[2], right[3]);
}

/* --- copies --- */

/* Rows first .. first + ROWS - 1 of a matrix whose rows lie `stride` apart, zeros from `limit` on.
 */
template <int D, int ROWS, int THREADS>
__device__ inline void copy_tile(bf16 *tile, const bf16 *matrix, int64_t stride, int first,
                                 int limit)
{
    constexpr int PIECES = D / 8;
    for (int i = static_cast<int>(threadIdx.x); i < ROWS * PIECES; i += THREADS) {
        const int row = i / PIECES, col = i % PIECES * 8;
        const bool there = first + row < limit;
        copy_16(tile + row * TILE_STRIDE<D> + col,
                matrix + (there ? first + row : 0) * stride + col, there);
    }
}

/* C [16 rows, D] of a warp, times factor, to rows of a matrix; rows from `limit` on are left out.
 */
template <int D>
__device__ inline void store_rows(bf16 *matrix, int64_t stride, int first, int limit,
                                  const float (&c)[D / 8][4], const float (&factor)[2])
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = first + g + 8 * r;
        if (row >= limit) {
            continue;
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            const uint32_t bits = pair_of(c[n][2 * r] * factor[r], c[n][2 * r + 1] * factor[r]);
            *reinterpret_cast<uint32_t *>(matrix + row * stride + 8 * n + 2 * t) = bits;
        }
    }
}

/* The reduction over the four lanes that share a row of C. */
template <class Op> __device__ inline float row_reduce(float x, Op op)
{
    x = op(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return op(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

#endif

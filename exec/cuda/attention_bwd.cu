/* Attention backward on tensor cores: the scores are made again from q, k and lse (Dao 2023,
 * FlashAttention-2, section 3.1.2), in two passes that own what they write (attention.cu).
 *
 * Pass for dk and dv: a block owns 64 keys of a kv head, a warp 16 of them, and walks over tiles of
 * 32 queries of every query head of the group. Scores are made transposed, [keys, queries], so that
 * P^T and dS^T come out as A operands of the products with dout and q. Pass for dq: a block owns 64
 * queries of a head, a warp 16 of them, and walks over tiles of 32 keys. */
#include "exec/cuda/attention.cuh"
#include "exec/cuda/mma.cuh"

constexpr int OWN = 64, STEP = 32, WARPS = OWN / 16, THREADS = WARPS * WARP;
constexpr float LOG2_E = 1.4426950408889634f;

/* Two tiles of what a block owns, two of what it walks over, and lse and dots of STEP queries. */
template <int D>
constexpr size_t SHARED_BYTES = sizeof(bf16) * 2 * (OWN + STEP) * TILE_STRIDE<D> +
                                2 * STEP * sizeof(float);

template <int D> struct tiles {
    bf16 *own[2], *step[2];
    float *lse, *dots; /* [STEP] */
};
template <int D> __device__ static tiles<D> tiles_in(bf16 *shared)
{
    tiles<D> at;
    at.own[0] = shared;
    at.own[1] = at.own[0] + OWN * TILE_STRIDE<D>;
    at.step[0] = at.own[1] + OWN * TILE_STRIDE<D>;
    at.step[1] = at.step[0] + STEP * TILE_STRIDE<D>;
    at.lse = reinterpret_cast<float *>(at.step[1] + STEP * TILE_STRIDE<D>);
    at.dots = at.lse + STEP;
    return at;
}

/* product [16, STEP] = rows row0 .. row0 + 15 of `own` times the transpose of `step` */
template <int D>
__device__ static void multiply(float (&product)[STEP / 8][4], const bf16 *own, int row0,
                                const bf16 *step)
{
#pragma unroll
    for (int n = 0; n < STEP / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            product[n][i] = 0.0f;
        }
    }
#pragma unroll 2 /* all of them at once would spill registers with 128 columns */
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[4];
        load_a<D>(a, own, row0, 16 * k);
#pragma unroll
        for (int n = 0; n < STEP / 16; n++) {
            uint32_t b[4];
            load_b_of_rows<D>(b, step, 16 * n, 16 * k);
            mma(product[2 * n], a, b[0], b[1]);
            mma(product[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/* sum [16, D] += factor [16, STEP] times `step` */
template <int D>
__device__ static void add_product(float (&sum)[D / 8][4], const float (&factor)[STEP / 8][4],
                                   const bf16 *step)
{
#pragma unroll
    for (int k = 0; k < STEP / 16; k++) {
        uint32_t a[4];
        fragment_of(a, factor[2 * k], factor[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            load_b<D>(b, step, 16 * k, 16 * n);
            mma(sum[2 * n], a, b[0], b[1]);
            mma(sum[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/* scores becomes P, dprobs becomes dS without its factor 1 / sqrt(d), for one element. */
__device__ static void differentiate(float &score, float &dprob, bool seen, float log2_scale,
                                     float lse, float dots)
{
    const float p = seen ? exp2f(score * log2_scale - lse * LOG2_E) : 0.0f;
    score = p;
    dprob = seen ? p * (dprob - dots) : 0.0f;
}

template <int D>
__global__ static void __launch_bounds__(THREADS)
    dkv_kernel(attention_shape shape, attention_grad grad)
{
    DYNAMIC_SHARED(shared);
    const tiles<D> tile = tiles_in<D>(shared);
    const bf16 *qkv = static_cast<const bf16 *>(grad.qkv);
    const bf16 *dout = static_cast<const bf16 *>(grad.dout);
    const int kv_head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
    const int first_block = static_cast<int>(blockIdx.x) * OWN;
    const int row0 = static_cast<int>(threadIdx.x) / WARP * 16;
    const int g = lane_id() / 4, t = lane_id() % 4;
    const int64_t stride = shape.qkv_stride();
    const int64_t k = shape.k_at(sequence, kv_head), v = shape.v_at(sequence, kv_head);
    copy_tile<D, OWN, THREADS>(tile.own[0], qkv + k, stride, first_block, shape.seq_len);
    copy_tile<D, OWN, THREADS>(tile.own[1], qkv + v, stride, first_block, shape.seq_len);
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    for (int i = 0; i < shape.group; i++) {
        const int head = kv_head * shape.group + i;
        const int64_t stats = shape.stats_at(sequence, head);
        for (int first = shape.causal ? first_block : 0; first < shape.seq_len; first += STEP) {
            __syncthreads(); /* the last step's queries are used */
            copy_tile<D, STEP, THREADS>(tile.step[0], qkv + shape.q_at(sequence, head), stride,
                                        first, shape.seq_len);
            copy_tile<D, STEP, THREADS>(tile.step[1], dout + shape.out_at(sequence, head),
                                        shape.out_stride(), first, shape.seq_len);
            commit_copies();
            if (threadIdx.x < STEP) {
                const int query = first + static_cast<int>(threadIdx.x);
                const bool there = query < shape.seq_len;
                tile.lse[threadIdx.x] = there ? grad.lse[stats + query] : 0.0f;
                tile.dots[threadIdx.x] = there ? grad.dots[stats + query] : 0.0f;
            }
            wait_copies();
            __syncthreads();
            float probs[STEP / 8][4], dscores[STEP / 8][4];
            multiply<D>(probs, tile.own[0], row0, tile.step[0]);
            multiply<D>(dscores, tile.own[1], row0, tile.step[1]);
#pragma unroll
            for (int n = 0; n < STEP / 8; n++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int col = 8 * n + 2 * t + j % 2;
                    const int key = first_block + row0 + g + j / 2 * 8;
                    differentiate(probs[n][j], dscores[n][j], shape.sees(first + col, key),
                                  shape.scale * LOG2_E, tile.lse[col], tile.dots[col]);
                }
            }
            add_product<D>(dv, probs, tile.step[1]);
            add_product<D>(dk, dscores, tile.step[0]);
        }
    }
    bf16 *dqkv = static_cast<bf16 *>(grad.dqkv);
    const float scales[2] = {shape.scale, shape.scale}, ones[2] = {1.0f, 1.0f};
    store_rows<D>(dqkv + k, stride, first_block + row0, shape.seq_len, dk, scales);
    store_rows<D>(dqkv + v, stride, first_block + row0, shape.seq_len, dv, ones);
}

template <int D>
__global__ static void __launch_bounds__(THREADS)
    dq_kernel(attention_shape shape, attention_grad grad)
{
    DYNAMIC_SHARED(shared);
    const tiles<D> tile = tiles_in<D>(shared);
    const bf16 *qkv = static_cast<const bf16 *>(grad.qkv);
    const bf16 *dout = static_cast<const bf16 *>(grad.dout);
    const int first_block = static_cast<int>(gridDim.x - 1 - blockIdx.x) * OWN;
    const int head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
    const int row0 = static_cast<int>(threadIdx.x) / WARP * 16;
    const int g = lane_id() / 4, t = lane_id() % 4;
    const int64_t stride = shape.qkv_stride(), q = shape.q_at(sequence, head);
    const bf16 *k = qkv + shape.k_at(sequence, head / shape.group);
    const bf16 *v = qkv + shape.v_at(sequence, head / shape.group);
    copy_tile<D, OWN, THREADS>(tile.own[0], qkv + q, stride, first_block, shape.seq_len);
    copy_tile<D, OWN, THREADS>(tile.own[1], dout + shape.out_at(sequence, head), shape.out_stride(),
                               first_block, shape.seq_len);
    float lse[2], dots[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int query = first_block + row0 + g + 8 * r;
        const int64_t stat = shape.stats_at(sequence, head) + query;
        lse[r] = query < shape.seq_len ? grad.lse[stat] : 0.0f;
        dots[r] = query < shape.seq_len ? grad.dots[stat] : 0.0f;
    }
    const int limit =
        shape.causal && first_block + OWN < shape.seq_len ? first_block + OWN : shape.seq_len;
    float dq[D / 8][4] = {};
    for (int first = 0; first < limit; first += STEP) {
        __syncthreads(); /* the last step's keys are used */
        copy_tile<D, STEP, THREADS>(tile.step[0], k, stride, first, shape.seq_len);
        copy_tile<D, STEP, THREADS>(tile.step[1], v, stride, first, shape.seq_len);
        commit_copies();
        wait_copies();
        __syncthreads();
        float probs[STEP / 8][4], dscores[STEP / 8][4];
        multiply<D>(probs, tile.own[0], row0, tile.step[0]);
        multiply<D>(dscores, tile.own[1], row0, tile.step[1]);
#pragma unroll
        for (int n = 0; n < STEP / 8; n++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int key = first + 8 * n + 2 * t + j % 2;
                const int query = first_block + row0 + g + j / 2 * 8;
                differentiate(probs[n][j], dscores[n][j], shape.sees(query, key),
                              shape.scale * LOG2_E, lse[j / 2], dots[j / 2]);
            }
        }
        add_product<D>(dq, dscores, tile.step[0]);
    }
    const float scales[2] = {shape.scale, shape.scale};
    store_rows<D>(static_cast<bf16 *>(grad.dqkv) + q, stride, first_block + row0, shape.seq_len, dq,
                  scales);
}

/* More than 48 KiB of shared memory has to be asked for, kernel by kernel. */
template <class Kernel>
static cudaError_t run(Kernel kernel, size_t bytes, const attention_shape &shape, int heads,
                       const attention_grad &grad, cudaStream_t stream)
{
    const cudaError_t allowed = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (allowed != cudaSuccess) {
        return allowed;
    }
    const dim3 blocks(static_cast<unsigned>(divide_up(shape.seq_len, OWN)),
                      static_cast<unsigned>(heads), static_cast<unsigned>(shape.batch));
    start({blocks, THREADS, bytes, stream}, kernel, shape, grad);
    return cudaGetLastError();
}

template <int D>
static cudaError_t launch(const attention_shape &shape, const attention_grad &grad,
                          cudaStream_t stream)
{
    const cudaError_t first =
        run(dkv_kernel<D>, SHARED_BYTES<D>, shape, shape.kv_heads, grad, stream);
    return first != cudaSuccess
               ? first
               : run(dq_kernel<D>, SHARED_BYTES<D>, shape, shape.heads, grad, stream);
}

cudaError_t attention_bwd_mma(const attention_shape &shape, const attention_grad &grad,
                              cudaStream_t stream)
{
    switch (shape.head_dim) {
    case 64:
        return launch<64>(shape, grad, stream);
    case 80:
        return launch<80>(shape, grad, stream);
    case 96:
        return launch<96>(shape, grad, stream);
    case 128:
        return launch<128>(shape, grad, stream);
    default:
        return cudaErrorNotSupported;
    }
}

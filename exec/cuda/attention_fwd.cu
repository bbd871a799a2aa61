/* Attention forward on tensor cores: online softmax over tiles of keys in shared memory (Dao 2023,
 * FlashAttention-2, algorithm 1). A block owns 64 queries of a head, a warp 16 of them. The next
 * tile of keys is copied while values are used, and the values while scores are made. */
#include "exec/cuda/attention.cuh"
#include "exec/cuda/mma.cuh"

constexpr int QUERIES = 64, KEYS = 64, WARPS = QUERIES / 16, THREADS = WARPS * WARP;
constexpr float LOG2_E = 1.4426950408889634f;

template <int D> constexpr size_t SHARED_BYTES = sizeof(bf16) * 3 * 64 * TILE_STRIDE<D>;

/* What a warp knows of its 16 queries; [2]: rows g and g + 8 of this lane. */
template <int D> struct progress {
    float result[D / 8][4];
    float max[2], sum[2]; /* sum: this lane's part */
};

/* scores [16, KEYS] = q k^T, q being rows row0 .. row0 + 15 of `queries`. These are read again for
 * every tile of keys: held in registers they would cost a block per multiprocessor. */
template <int D>
__device__ static void make_scores(float (&scores)[KEYS / 8][4], const bf16 *queries, int row0,
                                   const bf16 *keys)
{
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scores[n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t a[4];
        load_a<D>(a, queries, row0, 16 * k);
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t b[4];
            load_b_of_rows<D>(b, keys, 16 * n, 16 * k);
            mma(scores[2 * n], a, b[0], b[1]);
            mma(scores[2 * n + 1], a, b[2], b[3]);
        }
    }
}

__device__ static void hide_unseen(const attention_shape &shape, float (&scores)[KEYS / 8][4],
                                   int first_query, int first_key)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = first_key + 8 * n + 2 * t + i % 2;
            const int query = first_query + g + i / 2 * 8;
            if (key >= shape.seq_len || (shape.causal && key > query)) {
                scores[n][i] = -INFINITY;
            }
        }
    }
}

/* Replaces scores by exp(score * scale - max) and brings what was summed before to the new max. */
template <int D>
__device__ static void advance(progress<D> &state, float (&scores)[KEYS / 8][4], float log2_scale)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float max = state.max[r];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            max = fmaxf(max, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
        }
        max = row_reduce(max, max_op());
        const float kept = exp2f((state.max[r] - max) * log2_scale);
        float sum = state.sum[r] * kept;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 2 * r; i < 2 * r + 2; i++) {
                scores[n][i] = exp2f((scores[n][i] - max) * log2_scale);
                sum += scores[n][i];
            }
        }
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            state.result[n][2 * r] *= kept;
            state.result[n][2 * r + 1] *= kept;
        }
        state.max[r] = max;
        state.sum[r] = sum;
    }
}

/* result += probs v */
template <int D>
__device__ static void add_values(progress<D> &state, const float (&probs)[KEYS / 8][4],
                                  const bf16 *values)
{
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        uint32_t a[4];
        fragment_of(a, probs[2 * k], probs[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            load_b<D>(b, values, 16 * k, 16 * n);
            mma(state.result[2 * n], a, b[0], b[1]);
            mma(state.result[2 * n + 1], a, b[2], b[3]);
        }
    }
}

template <int D>
__device__ static void finish(const attention_shape &shape, const progress<D> &state, bf16 *out,
                              float *lse, int first_query)
{
    const int g = lane_id() / 4, t = lane_id() % 4;
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = row_reduce(state.sum[r], add_op());
        const int query = first_query + g + 8 * r;
        factor[r] = 1.0f / sum;
        if (t == 0 && query < shape.seq_len) {
            lse[query] = state.max[r] * shape.scale + logf(sum);
        }
    }
    store_rows<D>(out, shape.out_stride(), first_query, shape.seq_len, state.result, factor);
}

template <int D>
__global__ static void __launch_bounds__(THREADS)
    fwd_kernel(attention_shape shape, const bf16 *qkv, bf16 *out, float *lse)
{
    DYNAMIC_SHARED(shared);
    bf16 *queries = shared, *keys = queries + QUERIES * TILE_STRIDE<D>;
    bf16 *values = keys + KEYS * TILE_STRIDE<D>;
    /* Under causality later blocks have more keys: they start first. */
    const int first_block = static_cast<int>(gridDim.x - 1 - blockIdx.x) * QUERIES;
    const int head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
    const int first_query = first_block + static_cast<int>(threadIdx.x) / WARP * 16;
    const int64_t stride = shape.qkv_stride();
    const bf16 *k = qkv + shape.k_at(sequence, head / shape.group);
    const bf16 *v = qkv + shape.v_at(sequence, head / shape.group);
    const int limit = shape.causal && first_block + QUERIES < shape.seq_len ? first_block + QUERIES
                                                                            : shape.seq_len;
    copy_tile<D, QUERIES, THREADS>(queries, qkv + shape.q_at(sequence, head), stride, first_block,
                                   shape.seq_len);
    copy_tile<D, KEYS, THREADS>(keys, k, stride, 0, shape.seq_len);
    commit_copies();
    progress<D> state = {{}, {-INFINITY, -INFINITY}, {}};
    for (int first = 0; first < limit; first += KEYS) {
        wait_copies();
        __syncthreads(); /* this tile's keys are there, the last tile's values are used */
        copy_tile<D, KEYS, THREADS>(values, v, stride, first, shape.seq_len);
        commit_copies();
        float scores[KEYS / 8][4];
        make_scores<D>(scores, queries, first_query - first_block, keys);
        wait_copies();
        __syncthreads(); /* its values are there, the keys are used */
        if (first + KEYS < limit) {
            copy_tile<D, KEYS, THREADS>(keys, k, stride, first + KEYS, shape.seq_len);
            commit_copies();
        }
        if (first + KEYS > shape.seq_len || (shape.causal && first + KEYS > first_query)) {
            hide_unseen(shape, scores, first_query, first);
        }
        advance(state, scores, shape.scale * LOG2_E);
        add_values(state, scores, values);
    }
    finish(shape, state, out + shape.out_at(sequence, head), lse + shape.stats_at(sequence, head),
           first_query);
}

template <int D>
static cudaError_t launch(const attention_shape &shape, const void *qkv, void *out, float *lse,
                          cudaStream_t stream)
{
    const cudaError_t allowed =
        cudaFuncSetAttribute(fwd_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(SHARED_BYTES<D>));
    if (allowed != cudaSuccess) {
        return allowed;
    }
    const dim3 blocks(static_cast<unsigned>(divide_up(shape.seq_len, QUERIES)),
                      static_cast<unsigned>(shape.heads), static_cast<unsigned>(shape.batch));
    start({blocks, THREADS, SHARED_BYTES<D>, stream}, fwd_kernel<D>, shape,
          static_cast<const bf16 *>(qkv), static_cast<bf16 *>(out), lse);
    return cudaGetLastError();
}

cudaError_t attention_fwd_mma(const attention_shape &shape, const void *qkv, void *out, float *lse,
                              cudaStream_t stream)
{
    switch (shape.head_dim) {
    case 64:
        return launch<64>(shape, qkv, out, lse, stream);
    case 80:
        return launch<80>(shape, qkv, out, lse, stream);
    case 96:
        return launch<96>(shape, qkv, out, lse, stream);
    case 128:
        return launch<128>(shape, qkv, out, lse, stream);
    default:
        return cudaErrorNotSupported;
    }
}

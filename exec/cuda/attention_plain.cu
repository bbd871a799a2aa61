/* Attention in fp32 arithmetic for any dtype and head_dim: for checks, and for shapes that the
 * tensor-core kernels do not have. Four warps of a block own a query (or a key) each and walk over
 * tiles of 32 keys (queries), of which each lane takes one; columns of results lie over the lanes.
 */
#include "exec/cuda/attention.cuh"

constexpr int TILE = WARP, WARPS = 4, THREADS = WARPS * WARP;
constexpr int LANE_COLS = PLAIN_MAX_HEAD_DIM / WARP; /* columns of a result per lane */

/* One more column, so that the lanes' rows start in different banks. */
struct tile {
    float at[TILE][PLAIN_MAX_HEAD_DIM + 1];
};

/* Rows first .. first + 31 of a head, zero from `limit` on. */
template <class T>
__device__ static void load_tile(tile &to, const T *head, int64_t stride, int first, int limit,
                                 int head_dim)
{
    for (int i = static_cast<int>(threadIdx.x); i < TILE * head_dim; i += THREADS) {
        const int row = i / head_dim, col = i % head_dim;
        to.at[row][col] = first + row < limit ? to_float(head[(first + row) * stride + col]) : 0.0f;
    }
}

template <class T>
__device__ static void load_row(float *to, const T *row, bool there, int head_dim)
{
    for (int i = static_cast<int>(threadIdx.x) % WARP; i < head_dim; i += WARP) {
        to[i] = there ? to_float(row[i]) : 0.0f;
    }
}

__device__ static float dot(const float *a, const float *b, int head_dim)
{
    float sum = 0.0f;
    for (int i = 0; i < head_dim; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* sums[i] += the lanes' factors times their rows' column lane + 32 i */
__device__ static void add_rows(float (&sums)[LANE_COLS], float factor, const tile &rows)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    for (int row = 0; row < TILE; row++) {
        const float x = __shfl_sync(0xffffffffu, factor, row);
#pragma unroll
        for (int i = 0; i < LANE_COLS; i++) {
            sums[i] += x * rows.at[row][lane + WARP * i];
        }
    }
}

template <class T>
__device__ static void store_row(T *row, const float (&sums)[LANE_COLS], float factor, int head_dim)
{
    const int lane = static_cast<int>(threadIdx.x) % WARP;
#pragma unroll
    for (int i = 0; i < LANE_COLS; i++) {
        if (lane + WARP * i < head_dim) {
            row[lane + WARP * i] = from_float<T>(sums[i] * factor);
        }
    }
}

/* Where this warp works: its query or key, and the block's first. */
struct place {
    int sequence, head, first, own, lane, warp;
};

__device__ static place place_of_warp()
{
    const int warp = static_cast<int>(threadIdx.x) / WARP;
    const int first = static_cast<int>(blockIdx.x) * WARPS;
    return {static_cast<int>(blockIdx.z),
            static_cast<int>(blockIdx.y),
            first,
            first + warp,
            static_cast<int>(threadIdx.x) % WARP,
            warp};
}

/* Keys that the block's queries see. */
__device__ static int key_limit(const attention_shape &shape, int first_query)
{
    const int end = first_query + WARPS;
    return shape.causal && end < shape.seq_len ? end : shape.seq_len;
}

template <class T>
__global__ static void __launch_bounds__(THREADS)
    fwd_kernel(attention_shape shape, const T *qkv, T *out, float *lse)
{
    __shared__ tile keys, values;
    __shared__ float queries[WARPS][PLAIN_MAX_HEAD_DIM];
    const place here = place_of_warp();
    const int kv_head = here.head / shape.group, d = shape.head_dim;
    const int64_t stride = shape.qkv_stride();
    const bool there = here.own < shape.seq_len;
    load_row(queries[here.warp], qkv + shape.q_at(here.sequence, here.head) + here.own * stride,
             there, d);
    float max = -INFINITY, sum = 0.0f, result[LANE_COLS] = {};
    for (int first = 0; first < key_limit(shape, here.first); first += TILE) {
        __syncthreads();
        load_tile(keys, qkv + shape.k_at(here.sequence, kv_head), stride, first, shape.seq_len, d);
        load_tile(values, qkv + shape.v_at(here.sequence, kv_head), stride, first, shape.seq_len,
                  d);
        __syncthreads();
        if (!there) {
            continue;
        }
        const float score = shape.sees(here.own, first + here.lane)
                                ? dot(queries[here.warp], keys.at[here.lane], d) * shape.scale
                                : -INFINITY;
        const float new_max = fmaxf(max, warp_reduce(score, max_op()));
        const float p = expf(score - new_max), kept = expf(max - new_max);
        max = new_max;
        sum = sum * kept + warp_reduce(p, add_op());
#pragma unroll
        for (int i = 0; i < LANE_COLS; i++) {
            result[i] *= kept;
        }
        add_rows(result, p, values);
    }
    if (there) {
        store_row(out + shape.out_at(here.sequence, here.head) + here.own * shape.out_stride(),
                  result, 1.0f / sum, d);
        if (here.lane == 0) {
            lse[shape.stats_at(here.sequence, here.head) + here.own] = max + logf(sum);
        }
    }
}

/* Thread per key of one query: exp(score - lse), 0 where not seen. */
template <class T>
__global__ static void probs_kernel(attention_shape shape, const T *qkv, const float *lse, T *probs)
{
    const int query = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
    const int sequence = static_cast<int>(blockIdx.z);
    const int64_t stride = shape.qkv_stride();
    const int64_t stat = shape.stats_at(sequence, head) + query;
    const T *q = qkv + shape.q_at(sequence, head) + query * stride;
    for (int key = static_cast<int>(threadIdx.x); key < shape.seq_len; key += blockDim.x) {
        const T *k = qkv + shape.k_at(sequence, head / shape.group) + key * stride;
        float score = 0.0f;
        for (int i = 0; i < shape.head_dim; i++) {
            score += to_float(q[i]) * to_float(k[i]);
        }
        const float p = shape.sees(query, key) ? expf(score * shape.scale - lse[stat]) : 0.0f;
        probs[stat * shape.seq_len + key] = from_float<T>(p);
    }
}

/* What a pair of a query and a key contributes. */
struct pair {
    float p, ds;
};
__device__ static pair pair_of(const attention_shape &shape, bool seen, float score, float lse,
                               float dp, float dots)
{
    const float p = seen ? expf(score * shape.scale - lse) : 0.0f;
    return {p, p * (dp - dots)};
}

template <class T>
__global__ static void __launch_bounds__(THREADS)
    dq_kernel(attention_shape shape, attention_grad grad)
{
    __shared__ tile keys, values;
    __shared__ float queries[WARPS][PLAIN_MAX_HEAD_DIM], douts[WARPS][PLAIN_MAX_HEAD_DIM];
    const T *qkv = static_cast<const T *>(grad.qkv), *dout = static_cast<const T *>(grad.dout);
    const place here = place_of_warp();
    const int kv_head = here.head / shape.group, d = shape.head_dim;
    const int64_t stride = shape.qkv_stride();
    const int64_t q = shape.q_at(here.sequence, here.head) + here.own * stride;
    const int64_t stat = shape.stats_at(here.sequence, here.head) + here.own;
    const bool there = here.own < shape.seq_len;
    load_row(queries[here.warp], qkv + q, there, d);
    load_row(douts[here.warp],
             dout + shape.out_at(here.sequence, here.head) + here.own * shape.out_stride(), there,
             d);
    float result[LANE_COLS] = {};
    for (int first = 0; first < key_limit(shape, here.first); first += TILE) {
        __syncthreads();
        load_tile(keys, qkv + shape.k_at(here.sequence, kv_head), stride, first, shape.seq_len, d);
        load_tile(values, qkv + shape.v_at(here.sequence, kv_head), stride, first, shape.seq_len,
                  d);
        __syncthreads();
        if (there) {
            const pair x = pair_of(shape, shape.sees(here.own, first + here.lane),
                                   dot(queries[here.warp], keys.at[here.lane], d), grad.lse[stat],
                                   dot(douts[here.warp], values.at[here.lane], d), grad.dots[stat]);
            add_rows(result, x.ds, keys);
        }
    }
    if (there) {
        store_row(static_cast<T *>(grad.dqkv) + q, result, shape.scale, d);
    }
}

template <class T>
__global__ static void __launch_bounds__(THREADS)
    dkv_kernel(attention_shape shape, attention_grad grad)
{
    __shared__ tile queries, douts;
    __shared__ float keys[WARPS][PLAIN_MAX_HEAD_DIM], values[WARPS][PLAIN_MAX_HEAD_DIM];
    const T *qkv = static_cast<const T *>(grad.qkv), *dout = static_cast<const T *>(grad.dout);
    const place here = place_of_warp();
    const int d = shape.head_dim;
    const int64_t stride = shape.qkv_stride();
    const int64_t k = shape.k_at(here.sequence, here.head) + here.own * stride;
    const int64_t v = shape.v_at(here.sequence, here.head) + here.own * stride;
    const bool there = here.own < shape.seq_len;
    load_row(keys[here.warp], qkv + k, there, d);
    load_row(values[here.warp], qkv + v, there, d);
    float dk[LANE_COLS] = {}, dv[LANE_COLS] = {};
    const int first_query = shape.causal ? here.first / TILE * TILE : 0;
    for (int i = 0; i < shape.group; i++) {
        const int head = here.head * shape.group + i;
        const int64_t stat = shape.stats_at(here.sequence, head);
        for (int first = first_query; first < shape.seq_len; first += TILE) {
            const int query = first + here.lane;
            __syncthreads();
            load_tile(queries, qkv + shape.q_at(here.sequence, head), stride, first, shape.seq_len,
                      d);
            load_tile(douts, dout + shape.out_at(here.sequence, head), shape.out_stride(), first,
                      shape.seq_len, d);
            __syncthreads();
            if (!there) {
                continue;
            }
            const bool real = query < shape.seq_len;
            const pair x = pair_of(shape, shape.sees(query, here.own),
                                   dot(keys[here.warp], queries.at[here.lane], d),
                                   real ? grad.lse[stat + query] : 0.0f,
                                   dot(values[here.warp], douts.at[here.lane], d),
                                   real ? grad.dots[stat + query] : 0.0f);
            add_rows(dv, x.p, douts);
            add_rows(dk, x.ds, queries);
        }
    }
    if (there) {
        store_row(static_cast<T *>(grad.dqkv) + k, dk, shape.scale, d);
        store_row(static_cast<T *>(grad.dqkv) + v, dv, 1.0f, d);
    }
}

static dim3 grid_of(const attention_shape &shape, int heads)
{
    return dim3(static_cast<unsigned>(divide_up(shape.seq_len, WARPS)),
                static_cast<unsigned>(heads), static_cast<unsigned>(shape.batch));
}

template <class T>
void attention_fwd_plain(const attention_shape &shape, const T *qkv, T *out, float *lse, T *probs,
                         cudaStream_t stream)
{
    start({grid_of(shape, shape.heads), THREADS, 0, stream}, fwd_kernel<T>, shape, qkv, out, lse);
    if (probs != nullptr) {
        const dim3 blocks(static_cast<unsigned>(shape.seq_len), static_cast<unsigned>(shape.heads),
                          static_cast<unsigned>(shape.batch));
        start({blocks, THREADS, 0, stream}, probs_kernel<T>, shape, qkv, lse, probs);
    }
}

template <class T>
void attention_bwd_plain(const attention_shape &shape, const attention_grad &grad,
                         cudaStream_t stream)
{
    start({grid_of(shape, shape.kv_heads), THREADS, 0, stream}, dkv_kernel<T>, shape, grad);
    start({grid_of(shape, shape.heads), THREADS, 0, stream}, dq_kernel<T>, shape, grad);
}

template void attention_fwd_plain(const attention_shape &, const float *, float *, float *, float *,
                                  cudaStream_t);
template void attention_fwd_plain(const attention_shape &, const bf16 *, bf16 *, float *, bf16 *,
                                  cudaStream_t);
template void attention_bwd_plain<float>(const attention_shape &, const attention_grad &,
                                         cudaStream_t);
template void attention_bwd_plain<bf16>(const attention_shape &, const attention_grad &,
                                        cudaStream_t);

/* Operators that move rows: embeddings, patches, selections. */
#include "exec/cuda/columns.cuh"

/* Calls body(row, col) for every element of this thread. */
template <class Body> __device__ static void for_elements(int64_t rows, int64_t cols, Body body)
{
    const int64_t col = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (col >= cols) {
        return;
    }
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        body(row, col);
    }
}

/* --- token embedding --- */

template <class T, int V>
__global__ static void embed_fwd_kernel(const int32_t *tokens, const T *table, T *out, int64_t rows,
                                        int64_t cols, int64_t first_row, int64_t table_rows)
{
    const int64_t col = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V;
    if (col >= cols) {
        return;
    }
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        const int64_t from = tokens[row] - first_row;
        float values[V] = {};
        if (from >= 0 && from < table_rows) {
            load<V>(table + from * cols + col, values);
        }
        store<V>(out + row * cols + col, values);
    }
}

extern "C" cudaError_t hlm_cuda_embed_fwd(const hlm_cuda_call *call)
{
    const hlm_op *op = call->op;
    return dispatch(call, op->n, {call->operands[1], call->operands[2]},
                    [&](auto type, auto vector) {
                        using T = typename decltype(type)::type;
                        constexpr int V = decltype(vector)::value;
                        const row_grid grid = grid_over(op->m, op->n / V);
                        start({grid.blocks, grid.threads, 0, call->stream}, embed_fwd_kernel<T, V>,
                              at<int32_t>(call, 0), at<T>(call, 1), at<T>(call, 2), op->m, op->n,
                              op->first_row, op->k);
                    });
}

constexpr int EMBED_THREADS = 256, EMBED_COLS = 4, EMBED_WARPS = EMBED_THREADS / WARP;

/* Whether one of the rows before `row` has this token. */
__device__ static bool seen_before(const int32_t *tokens, int64_t row, int32_t token)
{
    for (int64_t first = 0; first < row; first += EMBED_THREADS) {
        const int64_t other = first + threadIdx.x;
        if (__syncthreads_or(other < row && tokens[other] == token)) {
            return true;
        }
    }
    return false;
}

/* The gradient of a table's row is summed by the block of the first row of dout that has its token;
 * the blocks of the others find that out and leave. Rows are added in their order, so the result
 * does not depend on the order of blocks, and no two blocks write the same row: no sorting, no
 * atomics, no scratch. Costs (distinct tokens) * rows comparisons, out of the second-level cache.
 */
template <class T>
__global__ static void embed_bwd_kernel(const int32_t *tokens, const T *dout, float *dtable,
                                        int64_t rows, int64_t cols, int64_t first_row,
                                        int64_t table_rows)
{
    __shared__ unsigned matches[EMBED_WARPS];
    const int64_t row = blockIdx.x;
    const int32_t token = tokens[row];
    const int64_t to = token - first_row;
    if (to < 0 || to >= table_rows || seen_before(tokens, row, token)) {
        return;
    }
    const int64_t col = static_cast<int64_t>(blockIdx.y) * EMBED_THREADS * EMBED_COLS + threadIdx.x;
    float sums[EMBED_COLS] = {};
    for (int64_t first = row; first < rows; first += EMBED_THREADS) {
        const int64_t other = first + threadIdx.x;
        const unsigned mine = __ballot_sync(0xffffffffu, other < rows && tokens[other] == token);
        __syncthreads(); /* the last matches are read */
        if (threadIdx.x % WARP == 0) {
            matches[threadIdx.x / WARP] = mine;
        }
        __syncthreads();
        for (int warp = 0; warp < EMBED_WARPS; warp++) {
            for (unsigned left = matches[warp]; left != 0; left &= left - 1) {
                const T *from =
                    dout + (first + warp * WARP + __ffs(static_cast<int>(left)) - 1) * cols;
#pragma unroll
                for (int i = 0; i < EMBED_COLS; i++) {
                    const int64_t c = col + i * EMBED_THREADS;
                    sums[i] += c < cols ? to_float(from[c]) : 0.0f;
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < EMBED_COLS; i++) {
        const int64_t c = col + i * EMBED_THREADS;
        if (c < cols) {
            dtable[to * cols + c] += sums[i];
        }
    }
}

extern "C" cudaError_t hlm_cuda_embed_bwd(const hlm_cuda_call *call)
{
    const hlm_op *op = call->op;
    if (op->m == 0 || op->n == 0) {
        return cudaSuccess;
    }
    const int64_t across = divide_up(op->n, EMBED_THREADS * EMBED_COLS);
    const dim3 blocks(static_cast<unsigned>(op->m), static_cast<unsigned>(across));
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        start({blocks, EMBED_THREADS, 0, call->stream}, embed_bwd_kernel<T>, at<int32_t>(call, 0),
              at<T>(call, 1), at<float>(call, 2), op->m, op->n, op->first_row, op->k);
    });
}

/* --- learned positions --- */

template <class T>
__global__ static void position_fwd_kernel(const T *table, const T *type_row, T *out, int64_t rows,
                                           int64_t cols, int64_t first_row, int64_t seq_len)
{
    for_elements(rows, cols, [=](int64_t row, int64_t col) {
        float x = to_float(out[row * cols + col]);
        x += to_float(table[(first_row + row) % seq_len * cols + col]);
        x += type_row == nullptr ? 0.0f : to_float(type_row[col]);
        out[row * cols + col] = from_float<T>(x);
    });
}

extern "C" cudaError_t hlm_cuda_position_fwd(const hlm_cuda_call *call)
{
    const hlm_op *op = call->op;
    HLM_ASSERT(op->seq_len > 0);
    const row_grid grid = grid_over(op->m, op->n);
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        start({grid.blocks, grid.threads, 0, call->stream}, position_fwd_kernel<T>, at<T>(call, 0),
              at<T>(call, 1), at<T>(call, 2), op->m, op->n, op->first_row, op->seq_len);
    });
}

/* Thread per element of the table: rows of its position, one a sequence. */
template <class T>
__global__ static void position_bwd_kernel(const T *dout, float *dtable, int64_t rows, int64_t cols,
                                           int64_t first_row, int64_t seq_len)
{
    for_elements(seq_len, cols, [=](int64_t position, int64_t col) {
        const int64_t first = (position - first_row % seq_len + seq_len) % seq_len;
        float sum = 0.0f;
        for (int64_t row = first; row < rows; row += seq_len) {
            sum += to_float(dout[row * cols + col]);
        }
        if (first < rows) {
            dtable[position * cols + col] += sum;
        }
    });
}

extern "C" cudaError_t hlm_cuda_position_bwd(const hlm_cuda_call *call)
{
    const hlm_op *op = call->op;
    HLM_ASSERT(op->seq_len > 0);
    const row_grid grid = grid_over(op->seq_len, op->n);
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        start({grid.blocks, grid.threads, 0, call->stream}, position_bwd_kernel<T>, at<T>(call, 0),
              at<float>(call, 1), op->m, op->n, op->first_row, op->seq_len);
        if (call->operands[2] != nullptr) {
            add_column_sums<1>(call, plain_columns<T>{at<T>(call, 0), op->n},
                               {{at<float>(call, 2), nullptr}});
        }
    });
}

/* --- images --- */

struct patch_shape {
    int64_t rows, cols, patches, in_row, side, channels, patch;
};

/* Columns of a patch are (channel, y, x). */
template <class T>
__global__ static void patchify_kernel(patch_shape shape, const T *pixels, T *out)
{
    for_elements(shape.rows, shape.cols, [=](int64_t row, int64_t col) {
        const int64_t image = row / shape.patches, place = row % shape.patches;
        const int64_t x = place % shape.in_row * shape.patch + col % shape.patch;
        const int64_t y = place / shape.in_row * shape.patch + col / shape.patch % shape.patch;
        const int64_t channel = col / (shape.patch * shape.patch);
        out[row * shape.cols + col] =
            pixels[((image * shape.channels + channel) * shape.side + y) * shape.side + x];
    });
}

extern "C" cudaError_t hlm_cuda_patchify(const hlm_cuda_call *call)
{
    const hlm_op *op = call->op;
    const int64_t patch = op->k, patches = op->m / op->batch;
    const int64_t in_row = llround(sqrt(static_cast<double>(patches)));
    const int64_t channels = op->n / (patch * patch);
    HLM_ASSERT(in_row * in_row * op->batch == op->m && channels * patch * patch == op->n);
    const patch_shape shape = {op->m, op->n, patches, in_row, in_row * patch, channels, patch};
    const row_grid grid = grid_over(op->m, op->n);
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        start({grid.blocks, grid.threads, 0, call->stream}, patchify_kernel<T>, shape,
              at<T>(call, 0), at<T>(call, 1));
    });
}

template <class T>
__global__ static void assemble_fwd_kernel(const T *patches, const T *class_row, const T *position,
                                           T *out, int64_t rows, int64_t cols, int64_t seq_len)
{
    for_elements(rows, cols, [=](int64_t row, int64_t col) {
        const int64_t sequence = row / seq_len, place = row % seq_len;
        const int64_t patch = sequence * (seq_len - 1) + place - 1;
        const T *from = place == 0 ? class_row : patches + patch * cols;
        out[row * cols + col] =
            from_float<T>(to_float(from[col]) + to_float(position[place * cols + col]));
    });
}

/* Thread per element of a sequence: it copies those of all sequences and sums them. */
template <class T>
__global__ static void assemble_bwd_kernel(const T *dout, T *dpatches, float *dclass,
                                           float *dposition, int64_t sequences, int64_t cols,
                                           int64_t seq_len)
{
    for_elements(seq_len, cols, [=](int64_t place, int64_t col) {
        float sum = 0.0f;
        for (int64_t sequence = 0; sequence < sequences; sequence++) {
            const T d = dout[(sequence * seq_len + place) * cols + col];
            sum += to_float(d);
            if (place > 0) {
                dpatches[(sequence * (seq_len - 1) + place - 1) * cols + col] = d;
            }
        }
        dposition[place * cols + col] += sum;
        if (place == 0) {
            dclass[col] += sum;
        }
    });
}

extern "C" cudaError_t hlm_cuda_patch_assemble_fwd(const hlm_cuda_call *call)
{
    const hlm_op *op = call->op;
    HLM_ASSERT(op->seq_len * op->batch == op->m);
    const row_grid grid = grid_over(op->m, op->n);
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        start({grid.blocks, grid.threads, 0, call->stream}, assemble_fwd_kernel<T>, at<T>(call, 0),
              at<T>(call, 1), at<T>(call, 2), at<T>(call, 3), op->m, op->n, op->seq_len);
    });
}

extern "C" cudaError_t hlm_cuda_patch_assemble_bwd(const hlm_cuda_call *call)
{
    const hlm_op *op = call->op;
    HLM_ASSERT(op->seq_len * op->batch == op->m);
    const row_grid grid = grid_over(op->seq_len, op->n);
    return dispatch_type(call, [&](auto type) {
        using T = typename decltype(type)::type;
        start({grid.blocks, grid.threads, 0, call->stream}, assemble_bwd_kernel<T>, at<T>(call, 0),
              at<T>(call, 1), at<float>(call, 2), at<float>(call, 3), op->batch, op->n,
              op->seq_len);
    });
}

/* --- selections: copies of the runtime --- */

static size_t row_bytes(const hlm_cuda_call *call)
{
    return static_cast<size_t>(call->op->n) * (is_bf16(call) ? sizeof(bf16) : sizeof(float));
}

extern "C" cudaError_t hlm_cuda_select_fwd(const hlm_cuda_call *call)
{
    const size_t bytes = row_bytes(call);
    return cudaMemcpy2DAsync(
        call->operands[1], bytes, call->operands[0], bytes * static_cast<size_t>(call->op->seq_len),
        bytes, static_cast<size_t>(call->op->m), cudaMemcpyDeviceToDevice, call->stream);
}

extern "C" cudaError_t hlm_cuda_select_bwd(const hlm_cuda_call *call)
{
    const size_t bytes = row_bytes(call), rows = static_cast<size_t>(call->op->m);
    const size_t sequence_bytes = bytes * static_cast<size_t>(call->op->seq_len);
    const cudaError_t cleared =
        cudaMemsetAsync(call->operands[1], 0, rows * sequence_bytes, call->stream);
    return cleared != cudaSuccess
               ? cleared
               : cudaMemcpy2DAsync(call->operands[1], sequence_bytes, call->operands[0], bytes,
                                   bytes, rows, cudaMemcpyDeviceToDevice, call->stream);
}

extern "C" cudaError_t hlm_cuda_slice_rows(const hlm_cuda_call *call)
{
    const size_t bytes = row_bytes(call);
    const char *from = at<char>(call, 0) + static_cast<size_t>(call->op->first_row) * bytes;
    return cudaMemcpyAsync(call->operands[1], from, bytes * static_cast<size_t>(call->op->m),
                           cudaMemcpyDeviceToDevice, call->stream);
}

extern "C" cudaError_t hlm_cuda_fill_zero(const hlm_cuda_call *call)
{
    const size_t element = is_bf16(call) ? sizeof(bf16) : sizeof(float);
    return cudaMemsetAsync(call->operands[0], 0, element * static_cast<size_t>(call->op->m),
                           call->stream);
}

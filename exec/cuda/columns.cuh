/* columns: sums over the rows of a matrix, for gradients of biases and norms. Two steps in a fixed
 * order: blocks of rows to partial sums in the scratch, then these to the result. */
#ifndef HLM_EXEC_CUDA_COLUMNS_CUH
#define HLM_EXEC_CUDA_COLUMNS_CUH

#include "exec/cuda/device.cuh"

constexpr int64_t COLUMN_THREADS = 128, MOST_ROW_BLOCKS = 128, LEAST_BLOCK_ROWS = 64;

inline int64_t num_row_blocks(int64_t rows)
{
    const int64_t blocks = divide_up(rows < 1 ? 1 : rows, LEAST_BLOCK_ROWS);
    return blocks < MOST_ROW_BLOCKS ? blocks : MOST_ROW_BLOCKS;
}

inline int64_t column_scratch_bytes(int64_t rows, int64_t cols, int num_outputs)
{
    return num_row_blocks(rows) * cols * num_outputs * static_cast<int64_t>(sizeof(float));
}

/* value(row, col, sums) adds to the OUTPUTS sums of its column. partial: [row block][output][col]
 */
template <int OUTPUTS, class Value>
__global__ void column_partials(Value value, int64_t rows, int64_t cols, int64_t block_rows,
                                float *partial)
{
    const int64_t col = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (col >= cols) {
        return;
    }
    const int64_t first = blockIdx.y * block_rows;
    const int64_t end = first + block_rows < rows ? first + block_rows : rows;
    float sums[OUTPUTS] = {};
#pragma unroll 4
    for (int64_t row = first; row < end; row++) {
        value(row, col, sums);
    }
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++) {
        partial[(static_cast<int64_t>(blockIdx.y) * OUTPUTS + i) * cols + col] = sums[i];
    }
}

struct column_outputs {
    float *at[2]; /* NULL: not wanted */
};

template <int OUTPUTS>
__global__ void column_totals(const float *partial, int64_t row_blocks, int64_t cols,
                              column_outputs outputs)
{
    const int64_t col = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (col >= cols) {
        return;
    }
#pragma unroll
    for (int i = 0; i < OUTPUTS; i++) {
        float sum = 0.0f;
#pragma unroll 16 /* so many loads are under way at once: there are few threads */
        for (int64_t block = 0; block < row_blocks; block++) {
            sum += partial[(block * OUTPUTS + i) * cols + col];
        }
        if (outputs.at[i] != nullptr) {
            outputs.at[i][col] += sum;
        }
    }
}

template <int OUTPUTS, class Value>
inline void add_column_sums(const hlm_cuda_call *call, Value value, column_outputs outputs)
{
    const int64_t rows = call->op->m, cols = call->op->n;
    if (rows == 0 || cols == 0) {
        return;
    }
    float *partial = static_cast<float *>(call->scratch);
    const int64_t row_blocks = num_row_blocks(rows);
    const unsigned across = static_cast<unsigned>(divide_up(cols, COLUMN_THREADS));
    start({dim3(across, static_cast<unsigned>(row_blocks)), COLUMN_THREADS, 0, call->stream},
          column_partials<OUTPUTS, Value>, value, rows, cols, divide_up(rows, row_blocks), partial);
    start({across, COLUMN_THREADS, 0, call->stream}, column_totals<OUTPUTS>, partial, row_blocks,
          cols, outputs);
}

template <class T> struct plain_columns {
    const T *data;
    int64_t cols;
    __device__ void operator()(int64_t row, int64_t col, float (&sums)[1]) const
    {
        sums[0] += to_float(data[row * cols + col]);
    }
};

#endif

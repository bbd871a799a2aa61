#include "costmodel/kernel.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Output tiles of the tile form, and how many ways the reduction may be split. */
struct tile {
    int32_t rows, cols;
};
static const struct tile tiles[] = {{256, 256}, {256, 128}, {128, 256}, {128, 128},
                                    {128, 64},  {64, 128},  {64, 64}};
static const int32_t splits[] = {1, 2, 4, 8};

enum { NUM_TILES = sizeof tiles / sizeof tiles[0], NUM_SPLITS = sizeof splits / sizeof splits[0] };
enum { TILE_DEPTH = 64, FULL_TILE_AREA = 32768, ATTENTION_ROWS = 128 };

static const double throttle_start_s = 100e-6;

/* `count` products of the same shape at once. */
struct product {
    double count, m, n, k, flops, bytes;
};

static double ceil_div(double a, double b)
{
    return ceil(a / b);
}

static double num_waves(double waves, double wave_frac)
{
    return waves < 1.0 ? 1.0 : wave_frac * ceil(waves) + (1.0 - wave_frac) * waves;
}

/* Compute time of the best tile and split. */
static double tile_compute_s(const struct hlm_device *device, const struct hlm_gemm_curve *curve,
                             double peak_flops_per_s, const struct product *product)
{
    const double num_sms = (double)device->num_sms;
    const double long_frac = product->flops / (peak_flops_per_s * throttle_start_s);
    const double slowdown = 1.0 + curve->throttle * fmax(0.0, log2(long_frac));
    double best_s = HUGE_VAL;
    for (size_t t = 0; t < NUM_TILES; t++) {
        const double rows = (double)tiles[t].rows, cols = (double)tiles[t].cols;
        const double area_frac = fmin(1.0, rows * cols / (double)FULL_TILE_AREA);
        const double sm_flops_per_s =
            curve->flops_per_s / num_sms * (area_frac < 1.0 ? pow(area_frac, curve->depth) : 1.0);
        const double num_tiles =
            product->count * ceil_div(product->m, rows) * ceil_div(product->n, cols);
        for (size_t s = 0; s < NUM_SPLITS; s++) {
            const double split = (double)splits[s];
            const double depth = ceil_div(product->k / split, TILE_DEPTH) * TILE_DEPTH;
            const double tile_s =
                curve->tile_start_s + 2.0 * rows * cols * depth * slowdown / sm_flops_per_s;
            double seconds = num_waves(num_tiles * split / num_sms, curve->wave_frac) * tile_s;
            if (splits[s] > 1) {
                seconds +=
                    4.0 * product->count * product->m * product->n * split / curve->bytes_per_s;
            }
            best_s = fmin(best_s, seconds);
        }
    }
    return best_s;
}

static double norm_of(double a, double b, double p)
{
    const double large = fmax(a, b), small = fmin(a, b);
    return large == 0.0 ? 0.0 : large * pow(1.0 + pow(small / large, p), 1.0 / p);
}

static const struct hlm_gemm_curve *find_gemm(const struct hlm_device_dtype *row,
                                              enum hlm_gemm_layout layout)
{
    const struct hlm_gemm_curve *any = NULL;
    for (int32_t i = 0; i < row->num_gemm; i++) {
        if (row->gemm[i].layout == layout) {
            return &row->gemm[i];
        }
        if (row->gemm[i].layout == HLM_GEMM_ANY) {
            any = &row->gemm[i];
        }
    }
    return any;
}

static double roofline_s(const struct hlm_device *device, const struct hlm_device_dtype *row,
                         const struct hlm_op *op)
{
    return fmax(op->flops / row->peak_flops_per_s, op->bytes / device->memory.peak_bytes_per_s) +
           device->launch_overhead_s;
}

/* op.h: grouped products share m rows, or with layout NT the reduction, among the experts. */
static struct product make_product(const struct hlm_op *op)
{
    struct product product = {1.0,           (double)op->m, (double)op->n,
                              (double)op->k, op->flops,     op->bytes};
    if (op->kind == HLM_OP_GROUPED_GEMM && op->num_experts > 1) {
        product.count = (double)op->num_experts;
        if (op->layout == HLM_GEMM_NT) {
            product.k = ceil_div(product.k, product.count);
        } else {
            product.m = ceil_div(product.m, product.count);
        }
    }
    return product;
}

/* Elements of the second operands of all products. */
static double second_elements(const struct hlm_op *op)
{
    const struct product product = make_product(op);
    return product.count * product.n * product.k;
}

static double gemm_s(const struct hlm_device *device, const struct hlm_device_dtype *row,
                     const struct hlm_op *op)
{
    const struct hlm_gemm_curve *curve = find_gemm(row, op->layout);
    if (curve == NULL) {
        return roofline_s(device, row, op);
    }
    const double quantise_s =
        curve->quantise_bytes * (double)op->m * (double)op->k / device->memory.peak_bytes_per_s;
    const double memory_s = op->bytes / curve->bytes_per_s;
    const bool grouped = op->kind == HLM_OP_GROUPED_GEMM && curve->grouped_frac > 0.0;
    const double slowdown = grouped ? 1.0 / curve->grouped_frac : 1.0;
    if (curve->form == HLM_GEMM_FORM_LINEAR) {
        return curve->t0_s + slowdown * op->flops / curve->flops_per_s + memory_s +
               curve->pack_s * second_elements(op) + quantise_s;
    }
    const struct product product = make_product(op);
    const double compute_s =
        slowdown * tile_compute_s(device, curve, row->peak_flops_per_s, &product);
    return curve->t0_s + norm_of(compute_s, memory_s, curve->power_p) + quantise_s;
}

/* The curve of this pass, mask and choice; failing that, of this pass and mask; of this pass; of
 * the other. */
static const struct hlm_attention_curve *find_attention(const struct hlm_device_dtype *row,
                                                        const struct hlm_op *op)
{
    const bool backward = op->kind == HLM_OP_ATTENTION_BWD;
    const bool keeps_probs = op->operands[backward ? 4 : 3] >= 0;
    const struct hlm_attention_curve *best = NULL;
    int best_score = -1;
    for (int32_t i = 0; i < row->num_attention; i++) {
        const struct hlm_attention_curve *curve = &row->attention[i];
        const int score = (curve->backward == backward ? 16 : 0) +
                          (curve->causal == op->causal ? 8 : 0) +
                          (curve->keeps_probs == keeps_probs ? 4 : 0) +
                          (curve->kernel == op->attention_kernel ? 2
                           : curve->kernel == HLM_ATTENTION_BEST ? 1
                                                                 : 0);
        if (score > best_score) {
            best = curve;
            best_score = score;
        }
    }
    return best;
}

static double attention_s(const struct hlm_device *device, const struct hlm_device_dtype *row,
                          const struct hlm_op *op)
{
    const struct hlm_attention_curve *curve = find_attention(row, op);
    if (curve == NULL) {
        return roofline_s(device, row, op);
    }
    const double seq_len = (double)op->seq_len;
    const double keys = op->window > 0 ? fmin(seq_len, (double)op->window) : seq_len;
    /* Ring attention: one kernel for the keys of each rank; else one for all of them. */
    const double shares = (double)hlm_op_context(op).ranks;
    const double steps = hlm_op_gathers_context(op) ? 1.0 : shares;
    const double num_heads = (double)op->batch * (double)op->heads;
    const double dim_frac = fmin(1.0, (double)op->head_dim / 128.0);
    const double rate =
        curve->flops_per_s * pow(dim_frac, curve->dim_exp) * keys / (keys + steps * curve->s_half);
    double compute_s = op->flops / rate;
    if (device->num_sms > 0) {
        /* Whole blocks of queries are computed, in waves over the multiprocessors. */
        const double blocks = ceil_div(seq_len / shares, ATTENTION_ROWS);
        const double waves = blocks * num_heads / (double)device->num_sms;
        compute_s *=
            blocks * ATTENTION_ROWS * shares / seq_len * num_waves(waves, curve->wave_frac) / waves;
    }
    const double memory_s = curve->bytes_per_s > 0.0 ? op->bytes / curve->bytes_per_s : 0.0;
    return steps * curve->t0_s + num_heads * curve->t_head_s +
           num_heads * seq_len * keys / shares * curve->score_s + norm_of(compute_s, memory_s, 3.0);
}

/* Operators over slabs far larger than any cache, which all ranks of a machine run at once at the
 * end of a step. */
static bool is_slab_op(enum hlm_op_kind kind)
{
    return kind == HLM_OP_FILL_ZERO || kind == HLM_OP_SUM_SQUARES || kind == HLM_OP_ADAMW;
}

const char *hlm_kernel_curve_key(const struct hlm_op *op)
{
    const bool gelu = op->activation == HLM_ACTIVATION_GELU;
    const bool layernorm = op->norm == HLM_NORM_LAYERNORM;
    switch (op->kind) {
    case HLM_OP_NORM_FWD:
        return layernorm ? "norm_fwd.layernorm" : "norm_fwd.rmsnorm";
    case HLM_OP_NORM_BWD:
        return layernorm ? "norm_bwd.layernorm" : "norm_bwd.rmsnorm";
    case HLM_OP_ACTIVATION_FWD:
    case HLM_OP_EXPERT_ACTIVATION_FWD:
        return gelu ? "activation_fwd.gelu" : "activation_fwd.swiglu";
    case HLM_OP_ACTIVATION_BWD:
    case HLM_OP_EXPERT_ACTIVATION_BWD:
        return gelu ? "activation_bwd.gelu" : "activation_bwd.swiglu";
    default:
        return hlm_op_texts[op->kind];
    }
}

/* Operators that differ only in where their rows come from are measured as one. */
static enum hlm_op_kind measured_kind(enum hlm_op_kind kind)
{
    switch (kind) {
    case HLM_OP_EXPERT_ACTIVATION_FWD:
        return HLM_OP_ACTIVATION_FWD;
    case HLM_OP_EXPERT_ACTIVATION_BWD:
        return HLM_OP_ACTIVATION_BWD;
    default:
        return kind;
    }
}

static const struct hlm_op_curve *find_curve(const struct hlm_device *device,
                                             const struct hlm_op *op)
{
    const char *texts[] = {hlm_kernel_curve_key(op), hlm_op_texts[measured_kind(op->kind)]};
    for (size_t t = 0; t < sizeof texts / sizeof texts[0]; t++) {
        for (int32_t i = 0; i < device->num_ops; i++) {
            if (strcmp(device->ops[i].op, texts[t]) == 0) {
                return &device->ops[i];
            }
        }
    }
    return NULL;
}

static double memory_bound_s(const struct hlm_device *device, const struct hlm_op *op)
{
    const double slowdown = is_slab_op(op->kind) ? fmax(1.0, device->shared_memory_slowdown) : 1.0;
    const struct hlm_op_curve *measured = find_curve(device, op);
    if (measured != NULL) {
        const struct hlm_curve curve = {measured->points, measured->num_points};
        return slowdown * hlm_curve_seconds(&curve, op->bytes);
    }
    return device->memory.t0_s + slowdown * op->bytes / device->memory.bytes_per_s;
}

double hlm_kernel_seconds(const struct hlm_device *device, const struct hlm_op *op)
{
    const struct hlm_device_dtype *row = hlm_device_dtype(device, op->dtype);
    HLM_ASSERT(!hlm_op_is_collective(op->kind));
    HLM_ASSERT(row != NULL);
    switch (op->kind) {
    case HLM_OP_GEMM:
    case HLM_OP_GROUPED_GEMM:
        return gemm_s(device, row, op);
    case HLM_OP_ATTENTION_FWD:
    case HLM_OP_ATTENTION_BWD:
        return attention_s(device, row, op);
    default:
        return memory_bound_s(device, op);
    }
}

int32_t hlm_kernel_launches(const struct hlm_device *device, const struct hlm_op *op)
{
    HLM_ASSERT(!hlm_op_is_collective(op->kind));
    const struct hlm_device_dtype *row = hlm_device_dtype(device, op->dtype);
    const bool backward = op->kind == HLM_OP_ATTENTION_BWD;
    if (device->backend == HLM_BACKEND_CPU || row == NULL) {
        return 1;
    }
    if (op->kind == HLM_OP_ATTENTION_FWD || backward) {
        const struct hlm_attention_curve *curve = find_attention(row, op);
        const bool composed = curve != NULL && curve->score_s > 0.0;
        /* Composed: scores, softmax, values; backward: four products and the softmax's. Fused: one
         * kernel; backward: row sums of dout * out, the kernel, conversion of dq. */
        return composed ? (backward ? 5 : 3) : (backward ? 3 : 1);
    }
    /* Norm backward: input gradients, then column sums of the weight gradients. */
    return op->kind == HLM_OP_NORM_BWD ? 2 : 1;
}

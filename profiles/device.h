/* device: how fast one accelerator (or one CPU core) runs each kind of kernel, and how much it
 * holds.
 *
 * Every number carries a source. Kernel times are physical models with few parameters, fitted per
 * device and dtype; where nothing was measured, costmodel/kernel falls back to a roofline with
 * launch overhead. A device of backend cpu is one core running one rank.
 */
#ifndef HLM_PROFILES_DEVICE_H
#define HLM_PROFILES_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "profiles/curve.h"
#include "profiles/dtype.h"
#include "profiles/source.h"

#define HLM_BACKEND_MAP(X) X(CPU, "cpu") X(CUDA, "cuda")
enum hlm_backend_kind {
#define X(name, text) HLM_BACKEND_##name,
    HLM_BACKEND_MAP(X)
#undef X
};

/* Operand layouts of C[m,n] = A * B as stored row-major: forward x[m,k] * W[n,k]^T is TN (the
 * field's column-major name), data gradient dY[m,k] * W[k,n] is NN, weight gradient dY[k,m]^T *
 * X[k,n] is NT. */
#define HLM_GEMM_LAYOUT_MAP(X) X(ANY, "any") X(TN, "tn") X(NN, "nn") X(NT, "nt")
enum hlm_gemm_layout {
#define X(name, text) HLM_GEMM_##name,
    HLM_GEMM_LAYOUT_MAP(X)
#undef X
};

/* Two physical models of a GEMM (costmodel/kernel.h has the formulas):
 * linear: t = t0 + flops / flops_per_s + bytes / bytes_per_s
 * tile:   waves of output tiles over num_sms with a per-tile start-up, bandwidth and throttling. */
#define HLM_GEMM_FORM_MAP(X) X(LINEAR, "linear") X(TILE, "tile")
enum hlm_gemm_form {
#define X(name, text) HLM_GEMM_FORM_##name,
    HLM_GEMM_FORM_MAP(X)
#undef X
};
struct hlm_gemm_curve {
    enum hlm_gemm_layout layout; /* "any" serves layouts without a row of their own */
    enum hlm_gemm_form form;
    double t0_s;
    double flops_per_s,
        bytes_per_s; /* linear: marginal rates; tile: peak * eff and bandwidth * eff */
    /* tile form only (0 in linear) */
    double tile_start_s; /* start-up of one tile */
    double wave_frac;    /* 0: fractional waves (perfect overlap of tails), 1: whole waves */
    double power_p;      /* p-norm that joins compute and memory time */
    double depth;        /* exponent of the loss of efficiency of small tiles */
    double throttle;     /* slowdown per doubling of the duration above 100 us (clock) */
    /* both forms: rate of the products of several experts at once over that of one product; 0: 1 */
    double grouped_frac;
    /* both forms: extra traffic per element of the [m, k] operand, paid before the product starts
     * (quantisation to fp8); 0: none */
    double quantise_bytes;
    /* linear form only: seconds per element of the second operand ([n, k], or [k, n]), which a
     * CPU's library brings near and packs for every product, however few rows it then serves; 0:
     * none */
    double pack_s;
    struct hlm_source source;
};

/* Fused or composed attention of one pass: t = t0 + num_heads_total * t_head + scores * score_s
 *   + (tc^3 + tm^3)^(1/3), tc = flops / (flops_per_s * min(1, d/128)^dim_exp * s / (s + s_half)),
 * tm = bytes / bytes_per_s; CPU profiles use t_head, flops_per_s, score_s (per score element) and
 * s_half. flops are those of the operator: causal counted half, a fused backward 2.5 times its
 * forward. On devices with num_sms, w = ceil(s/128) * num_heads_total / num_sms waves of query
 * blocks cost (w < 1 ? 1 : wave_frac * ceil(w) + (1 - wave_frac) * w) / w times tc. bytes_per_s 0:
 * no limit. */
#define HLM_ATTENTION_KERNEL_MAP(X)                                                                \
    X(BEST, "best")       /* the fastest that is known */                                          \
    X(FLASH_1, "flash-1") /* FlashAttention 1 (Dao et al. 2022), and Triton's of that time */      \
    X(FLASH_2, "flash-2") /* FlashAttention 2 (Dao 2023), which PyTorch has built in */
enum hlm_attention_kernel {
#define X(name, text) HLM_ATTENTION_##name,
    HLM_ATTENTION_KERNEL_MAP(X)
#undef X
};
struct hlm_attention_curve {
    bool backward, causal;
    bool keeps_probs; /* of composed attention whose probabilities stay for the backward */
    enum hlm_attention_kernel kernel;
    double t0_s, t_head_s, flops_per_s, bytes_per_s, score_s;
    double dim_exp, s_half;
    double wave_frac; /* as in hlm_gemm_curve, over blocks of 128 queries of one head */
    struct hlm_source source;
};

struct hlm_device_dtype {
    enum hlm_dtype dtype;
    double peak_flops_per_s; /* dense matrix peak, as MFU counts it */
    const struct hlm_gemm_curve *gemm;
    int32_t num_gemm;
    const struct hlm_attention_curve *attention;
    int32_t num_attention;
    struct hlm_source source; /* of the peak */
};

/* Time of a memory-bound operator of this kind (op.h spells the kinds) by the bytes that it must
 * move. */
struct hlm_op_curve {
    const char *op;
    const struct hlm_curve_point *points;
    int32_t num_points;
    struct hlm_source source;
};

/* Memory-bound operators without a curve: t = t0 + bytes / bytes_per_s. */
struct hlm_memory_bandwidth {
    double t0_s, bytes_per_s;
    double peak_bytes_per_s; /* datasheet */
    struct hlm_source source;
};

/* How a measured device was: at one moment, and how well the profile gives its measurements back.
 * Numbers of 0 and texts of NULL are unknown. */
struct hlm_device_state {
    const char *when; /* "before", "during" (least clocks, most heat and power), "after" */
    double sm_clock_hz, memory_clock_hz, power_w, temperature_c;
    const char *throttle; /* why it ran slower than it could, "none" where it did not */
};
struct hlm_device_fit {
    const char *family; /* kernels: "bf16 products tn", "norm_fwd.rmsnorm" */
    int32_t num_points;
    double mean_error_frac, worst_error_frac; /* of the cost model against the measured times */
    double spread_frac; /* median over the points of how far half of their samples are apart */
    double warm_frac;   /* median time with inputs in the caches over that from memory */
};
struct hlm_device_meta {
    const char *host, *hardware; /* as the driver calls the device */
    const char *driver, *runtime, *blas, *transport;
    double seconds;        /* that measuring took */
    double drift_frac;     /* change of the same product's time from the beginning to the end */
    double sustained_frac; /* rate of a product after seconds of load over that of its first ones */
    double product_s;      /* that product's time at the end */
    double slowest_frac; /* the largest such time of all devices over the middle one; 0: unknown */
    const struct hlm_device_state *states;
    int32_t num_states;
    const struct hlm_device_fit *fits;
    int32_t num_fits;
    const char *const *left_out; /* what was not measured, and why */
    int32_t num_left_out;
};

struct hlm_device {
    const char *name;
    enum hlm_backend_kind backend;
    int64_t memory_bytes;                  /* what one rank may use, all of it */
    int32_t num_sms;                       /* cuda; 0 on cpu */
    const struct hlm_device_dtype *dtypes; /* supported ones only */
    int32_t num_dtypes;
    struct hlm_memory_bandwidth memory;
    const struct hlm_op_curve *ops;
    int32_t num_ops;
    double launch_overhead_s; /* host time to launch one kernel; a layer pass takes at least this
                                 times its kernels */
    struct hlm_source launch_source;
    int64_t fixed_memory_bytes; /* context, libraries, communication buffers, workspace */
    struct hlm_source memory_source;
    /* Slowdown of memory-bound operators while every core of the machine runs one (cpu), >= 1. */
    double shared_memory_slowdown;
    /* How often our executor runs each of its operators (cpu): a slow device made out of a fast
     * one, to try mixed clusters on one machine. Its curves were measured with them. 0: once,
     * a device as it is. */
    int32_t repeat_operators;
    const struct hlm_device_meta *meta; /* NULL: not measured, or nothing is known */
};

extern const struct hlm_json_table hlm_device_table; /* kind "device" */

/* Built-in name (profiles/devices/; `hlmplan list devices`), unique prefix of one, or path of an
 * hlmplan.device file. An ambiguous prefix lists its matches. */
HLM_MUST_CHECK enum hlm_status hlm_device_load(struct hlm_arena *arena, const char *name_or_path,
                                               const struct hlm_device **out, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_device_validate(const struct hlm_device *device,
                                                   const char *where, struct hlm_err *err);
const char *hlm_device_builtin_name(int index);

/* The row of a dtype, or NULL when the device lacks it. */
const struct hlm_device_dtype *hlm_device_dtype(const struct hlm_device *device,
                                                enum hlm_dtype dtype);

#endif

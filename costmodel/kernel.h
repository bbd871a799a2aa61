/* kernel: seconds of one operator (no collective) on one device.
 *
 * GEMM, linear form: t = t0 + flops / flops_per_s + bytes / bytes_per_s + pack_s n k.
 * GEMM, tile form, over output tiles a x b in {256x256, 256x128, 128x256, 128x128, 128x64, 64x128,
 * 64x64} and split-K q in {1, 2, 4, 8}, the least of: w = ceil(m/a) ceil(n/b) q / num_sms,
 *   waves = w < 1 ? 1 : wave_frac * ceil(w) + (1 - wave_frac) * w,
 *   thr = 1 + throttle * max(0, log2(flops / (peak * 100 us))),
 *   tc = waves * (tile_start + 2 a b ceil(k/q/64) 64 thr / (flops_per_s / num_sms * min(1,
 *        (a b / 32768)^depth))) + (q > 1 ? 4 m n q / bytes_per_s : 0),
 *   t = t0 + (tc^p + (bytes / bytes_per_s)^p)^(1/p), p = power_p.
 * Both forms: + quantise_bytes m k / peak memory rate. Grouped products: the tiles of all experts
 * together, at grouped_frac of the rate. Fitted to public tables of measured products
 * (profiles/devices/, tests/oracle). Attention: device.h; the curve of the pass, mask and choice to
 * keep probabilities, else of the pass and mask, else of the pass, else of the other pass; with a
 * window, its length instead of s. Memory-bound operators: the device's curve of that kind, else t0
 * + bytes / bw. On a cpu, the optimizer's slab operators also take shared_memory_slowdown, since
 * all ranks of a machine run them at once. Without any measured number: roofline max(flops / peak,
 * bytes / peak bandwidth) + launch overhead.
 */
#ifndef HLM_COSTMODEL_KERNEL_H
#define HLM_COSTMODEL_KERNEL_H

#include "costmodel/op.h"
#include "profiles/device.h"

/* Seconds on the device's own time line. HLM_ASSERTs that the op is no collective and that the
 * device has its dtype. */
double hlm_kernel_seconds(const struct hlm_device *device, const struct hlm_op *op);

/* Number of kernels that the host launches for it (composed operators: more than one). */
int32_t hlm_kernel_launches(const struct hlm_device *device, const struct hlm_op *op);

/* The key of the operator's curve among the device's (hlm_op_curve): its kind's text, with the norm
 * or the activation behind a dot for these kinds. A literal. */
const char *hlm_kernel_curve_key(const struct hlm_op *op);

#endif

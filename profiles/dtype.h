/* dtype: number formats of tensors and of matrix units. */
#ifndef HLM_PROFILES_DTYPE_H
#define HLM_PROFILES_DTYPE_H

/* X(constant, text, bytes per element). The block formats count their scales: mxfp8 one byte per 32
 * elements, nvfp4 one byte per 16 (OCP MX specification 1.0; NVIDIA NVFP4). */
#define HLM_DTYPE_MAP(X)                                                                           \
    X(FP32, "fp32", 4.0)                                                                           \
    X(TF32, "tf32", 4.0)                                                                           \
    X(FP16, "fp16", 2.0)                                                                           \
    X(BF16, "bf16", 2.0)                                                                           \
    X(FP8, "fp8", 1.0)                                                                             \
    X(MXFP8, "mxfp8", 1.03125)                                                                     \
    X(NVFP4, "nvfp4", 0.5625)

enum hlm_dtype {
#define HLM_DTYPE_ENUM(name, text, bytes) HLM_DTYPE_##name,
    HLM_DTYPE_MAP(HLM_DTYPE_ENUM)
#undef HLM_DTYPE_ENUM
        HLM_NUM_DTYPES
};

extern const char *const hlm_dtype_texts[]; /* ends with NULL */
double hlm_dtype_bytes(enum hlm_dtype dtype);

/* How training in a dtype stores parameters and activations: as they are, but bf16 for the formats
 * of one byte and less, which only the operands of matrix products have (Transformer Engine). */
enum hlm_dtype hlm_dtype_storage(enum hlm_dtype dtype);

#endif

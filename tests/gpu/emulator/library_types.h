/* The part of NVIDIA's header of this name that exec/cuda uses, for the emulator (emulator.h). */
#ifndef HLM_TESTS_GPU_EMULATOR_LIBRARY_TYPES_H
#define HLM_TESTS_GPU_EMULATOR_LIBRARY_TYPES_H

typedef enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16BF = 14 } cudaDataType_t;

#endif

/* emulator: runs the kernels and the host code of exec/cuda on the CPU, so that machines without a
 * GPU can test what they compute. It says nothing about speed, nor about what a real device's
 * memory model, limits and libraries do differently.
 *
 * The threads of a block are coroutines of the calling thread. A warp runs until all of it waits
 * for the block (__syncthreads), then the next one, so that a missing barrier shows; every other
 * launch runs them in the opposite order. A wait that can't end (a lane that left, two kinds of
 * exchange in one warp, a barrier that some threads don't reach) ends the program with a message.
 * Asynchronous copies happen at their wait. Blocks run one after the other, and so do operations of
 * streams: at the call, but while a stream is captured they are only written down, and run whenever
 * the graph is launched. What a real capture forbids (allocating, waiting) spoils one here. Fresh
 * device memory and shared memory hold NaN (0xFF).
 *
 * Headers of this folder stand in for NVIDIA's; exec/cuda/instructions.cuh here for that of the
 * backend. */
#ifndef HLM_TESTS_GPU_EMULATOR_EMULATOR_H
#define HLM_TESTS_GPU_EMULATOR_EMULATOR_H

#include <cstddef>
#include <cstring>
#include <functional>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned of_x = 1, unsigned of_y = 1, unsigned of_z = 1) : x(of_x), y(of_y), z(of_z)
    {
    }
};

/* What a running thread knows of itself. */
struct emulated_place {
    dim3 thread, block, threads, blocks;
};
const emulated_place *emulated_thread();
int emulated_lane();

/* What a block of an H100 may have, and what it has without asking. */
constexpr int EMULATED_SHARED_BYTES = 227 * 1024, EMULATED_UNASKED_BYTES = 48 * 1024;

/* Whether a kernel may have so much dynamic shared memory; its launches then may. */
bool emulated_allow_shared(const void *kernel, int bytes);

struct emulated_stream;

/* Runs an operation of a stream, or writes it down for the graph that the stream is captured to. */
void emulated_put(emulated_stream *stream, const std::function<void()> &operation);

struct emulated_shape {
    dim3 blocks;
    unsigned threads;
    size_t shared_bytes;
};
void emulate(const emulated_shape &shape, emulated_stream *stream, const void *kernel,
             const std::function<void()> &body);
void *emulated_shared(); /* the block's dynamic shared memory */

/* Waits for the block; whether any thread brought true. */
bool emulated_block_or(bool mine);

/* Prints the message with the running thread's place and aborts. */
[[noreturn]] void emulated_fail(const char *message);

/* Shows `bytes` bytes to the warp and waits for it; returns those of lane l at result[l]. They stay
 * there until the warp's next exchange but one. `kind` must be the same in all lanes. */
struct emulated_cell {
    unsigned char bytes[32];
};
const emulated_cell *emulated_show(const char *kind, const void *value, size_t bytes);

template <class N> struct emulated_values {
    const emulated_cell *cells;
    N of(int lane) const
    {
        N value;
        std::memcpy(&value, cells[lane].bytes, sizeof value);
        return value;
    }
};
template <class N> inline emulated_values<N> emulated_exchange(const char *kind, const N &value)
{
    static_assert(sizeof(N) <= sizeof(emulated_cell), "does not fit");
    return {emulated_show(kind, &value, sizeof value)};
}

/* cp.async: 16 bytes, of which the first `bytes` are copied and the others zero. */
void emulated_copy(void *to, const void *from, int bytes);
void emulated_commit();
void emulated_wait();

#endif

/* hostcopy: data of a backend for a transport that works on host memory.
 *
 * Where the host reaches the backend's memory these functions copy nothing and hand out the same
 * address; else they stage through host buffers that grow to the largest size asked for and then
 * stay. Two buffers (index 0 and 1), so that a collective can have one for its input and one for
 * its output.
 *
 * A transport that has failed may still read a buffer until it is released. Buffers that have to
 * last as long lie in an arena.
 */
#ifndef HLM_EXEC_HOSTCOPY_H
#define HLM_EXEC_HOSTCOPY_H

#include "base/arena.h"
#include "exec/backend.h"

struct hlm_hostcopy {
    struct hlm_backend *backend;
    struct hlm_queue *queue;
    char *buffer[2];
    int64_t capacity[2];
    struct hlm_arena *arena; /* of the buffers; NULL (as init leaves it): their own memory */
};

void hlm_hostcopy_init(struct hlm_hostcopy *copy, struct hlm_backend *backend,
                       struct hlm_queue *queue);
void hlm_hostcopy_release(struct hlm_hostcopy *copy);

/* Host address that stands for device memory `device` of `bytes`, contents not defined. */
HLM_MUST_CHECK enum hlm_status hlm_hostcopy_space(struct hlm_hostcopy *copy, int32_t index,
                                                  void *device, int64_t bytes, void **out,
                                                  struct hlm_err *err);
/* The same with the contents of the device. The queue is empty on return. */
HLM_MUST_CHECK enum hlm_status hlm_hostcopy_in(struct hlm_hostcopy *copy, int32_t index,
                                               void *device, int64_t bytes, void **out,
                                               struct hlm_err *err);
/* Brings what stands at `host` back to the device. The queue is empty on return. */
HLM_MUST_CHECK enum hlm_status hlm_hostcopy_out(struct hlm_hostcopy *copy, void *device,
                                                const void *host, int64_t bytes,
                                                struct hlm_err *err);
/* Fills the caller's own staging memory from the device; staging NULL: the host reaches it, nothing
 * to do. */
HLM_MUST_CHECK enum hlm_status hlm_hostcopy_stage(struct hlm_hostcopy *copy, char *staging,
                                                  const void *device, int64_t bytes,
                                                  struct hlm_err *err);

#endif

/* machine: what this computer is, for the provenance of measurements and profiles. */
#ifndef HLM_EXEC_MACHINE_H
#define HLM_EXEC_MACHINE_H

#include "base/arena.h"
#include "planner/measurement.h"

/* Cores that this process may use (affinity mask). */
int32_t hlm_machine_num_cores(void);

/* Ties the calling thread to the index-th core that it may use; false where the system refuses. */
bool hlm_machine_pin(int32_t index);

/* Host name, CPU model, kernel release. Texts are in the arena. */
struct hlm_measured_machine hlm_machine_describe(struct hlm_arena *arena, int32_t num_cores,
                                                 const char *backend_library);

/* Today as YYYY-MM-DD, UTC. */
const char *hlm_machine_date(struct hlm_arena *arena);

#endif

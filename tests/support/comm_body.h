/* comm_body: what every host transport must do, checked by all ranks together over whatever
 * transport they are given. */
#ifndef HLM_TESTS_SUPPORT_COMM_BODY_H
#define HLM_TESTS_SUPPORT_COMM_BODY_H

#include "exec/comm/comm.h"

enum { COMM_BODY_MAX_BYTES = 16 << 20 };

/* A complete strategy with these degrees, as the groups need it. */
struct hlm_strategy comm_body_strategy(int32_t dp, int32_t tp, int32_t pp);

/* All checks; HLM_NO with what was expected and found. collective */
enum hlm_status comm_body_run(struct hlm_comm *comm, const struct hlm_strategy *strategy,
                              struct hlm_err *err);

#endif

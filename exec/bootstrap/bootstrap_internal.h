/* bootstrap_internal: what the two ways of exec/bootstrap/bootstrap.h share: their table, and what
 * a rank says of itself when it comes. */
#ifndef HLM_EXEC_BOOTSTRAP_INTERNAL_H
#define HLM_EXEC_BOOTSTRAP_INTERNAL_H

#include "exec/bootstrap/bootstrap.h"

struct hlm_bootstrap_ops {
    void (*release)(struct hlm_bootstrap *bootstrap);
    void (*abort)(struct hlm_bootstrap *bootstrap, const struct hlm_err *failure);
    /* all: [world_size] x bytes, on rank 0 alone. collective */
    enum hlm_status (*gather)(struct hlm_bootstrap *bootstrap, const void *in, int64_t bytes,
                              void *all, struct hlm_err *err);
    /* From rank 0. collective */
    enum hlm_status (*broadcast)(struct hlm_bootstrap *bootstrap, void *data, int64_t bytes,
                                 struct hlm_err *err);
};

/* First member of both structs. */
struct hlm_bootstrap {
    const struct hlm_bootstrap_ops *ops;
    int32_t rank, world_size;
};

/* Grows with every change of what ranks say to each other here. */
enum { HLM_BOOTSTRAP_VERSION = 1, HLM_BOOTSTRAP_HOST = 64, HLM_BOOTSTRAP_RUN = 80 };

/* In the byte order of the machine: those that hlmplan is built for have the same. */
struct hlm_hello {
    int32_t version; /* stays first */
    int32_t rank, world_size, process;
    char run[HLM_BOOTSTRAP_RUN], host[HLM_BOOTSTRAP_HOST];
    char plan[HLM_BOOTSTRAP_PLAN], settings[HLM_BOOTSTRAP_SETTINGS];
};

struct hlm_hello hlm_hello_of(const struct hlm_bootstrap_config *config);

/* Whether `other` may take part in the run that rank 0 is of; statuses as hlm_bootstrap_tcp_new. */
HLM_MUST_CHECK enum hlm_status hlm_hello_check(const struct hlm_hello *first,
                                               const struct hlm_hello *other, struct hlm_err *err);

#endif

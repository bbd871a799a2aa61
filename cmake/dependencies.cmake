# Third-party libraries. Planning needs cJSON and GLPK; executing needs a BLAS, and MPI where it is found.

find_library(HLM_CJSON cjson REQUIRED)
find_path(HLM_CJSON_INCLUDE cjson/cJSON.h REQUIRED)
find_library(HLM_GLPK glpk REQUIRED)
find_path(HLM_GLPK_INCLUDE glpk.h REQUIRED)
find_package(Threads REQUIRED)

# Ranks are the parallelism, so OpenBLAS runs with one thread in each; but its pthread build, not the serial one: ranks
# that are threads of one process call it at once, and the serial build (0.3.21, Debian 12) then returns wrong
# products. exec/cpu/matrix.c takes a lock where it finds a build without threads.
find_library(HLM_OPENBLAS openblas PATH_SUFFIXES openblas-pthread)
find_path(HLM_OPENBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas-pthread
    x86_64-linux-gnu/openblas-pthread aarch64-linux-gnu/openblas-pthread)

find_package(MPI COMPONENTS C)

# Flags that every target of ours is compiled with, and the helpers that make layers and tests.

add_compile_definitions(_GNU_SOURCE)
include_directories(${CMAKE_SOURCE_DIR})

set(HLM_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wdouble-promotion
    -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2)
if(HLM_WERROR)
    list(APPEND HLM_WARNINGS -Werror)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:C>:${HLM_WARNINGS}>")

# A release build runs on any x86-64-v2 (or aarch64) machine; wider vectors are picked at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    add_compile_options("$<$<COMPILE_LANGUAGE:C>:-march=x86-64-v2>")
endif()
# Contraction to fused multiply-add would make results depend on the machine that compiled them.
add_compile_options("$<$<COMPILE_LANGUAGE:C>:-ffp-contract=off>")

if(HLM_SANITIZE)
    add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
    add_link_options(-fsanitize=address,undefined)
endif()
if(HLM_FUZZ)
    add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(HLM_COVERAGE)
    add_compile_options(--coverage)
    add_link_options(--coverage)
endif()

# hlm_add_layer(<name> [dependency...]): the static library hlm_<name> of all sources of this folder.
function(hlm_add_layer name)
    file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
    if(NOT sources)
        add_library(hlm_${name} INTERFACE)
        target_link_libraries(hlm_${name} INTERFACE ${ARGN})
        return()
    endif()
    add_library(hlm_${name} STATIC ${sources})
    target_link_libraries(hlm_${name} PUBLIC ${ARGN})
endfunction()

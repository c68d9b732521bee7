/* Vectors of GCC and clang: the compiler makes of them what the machine has. Arrays hold WIDTH numbers per pixel. */
#ifndef LANES_H
#define LANES_H

#ifndef WIDTH
#error "define WIDTH, the number of channels, a multiple of 8"
#endif

enum { LANES = 8, VECTORS = WIDTH / LANES };

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#endif

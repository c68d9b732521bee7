/* Vectors of GCC and clang: the compiler makes of them what the machine has. Arrays hold WIDTH numbers per pixel. */
#ifndef LANES_H
#define LANES_H

#ifndef WIDTH
#error "define WIDTH, the number of channels, a multiple of 8"
#endif

#ifdef __AVX512F__
enum { LANES = WIDTH % 16 ? 8 : 16, SUMS_AT_ONCE = 24 }; /* of 32 registers */
#else
enum { LANES = 8, SUMS_AT_ONCE = 12 }; /* of 16 registers */
#endif
enum { VECTORS = WIDTH / LANES };

#if defined(__AVX512F__) && WIDTH % 16 == 0
typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(64)));
#else
typedef float lanes __attribute__((vector_size(32), aligned(4), may_alias));
typedef int bits __attribute__((vector_size(32)));
#endif

/* Loops over what shall stay in registers: compilers unroll no more than sixteen turns by themselves. */
#define UNROLLED _Pragma("GCC unroll 24")

static inline lanes at(const float *x, long row, int vector)
{
    return *(const lanes *)(x + row * WIDTH + vector * LANES);
}

static inline void put(float *x, long row, int vector, lanes value)
{
    *(lanes *)(x + row * WIDTH + vector * LANES) = value;
}

#endif

/**
 * y (N,M) = x (M,N) transposed, float32, by 4x4 blocks in strips of 16 columns
 * so that every cache line of x is used while it is there. x and y must not overlap.
 */
export function transpose(M: i32, N: i32, x: usize, y: usize): void {
  const from = (<usize>N) << 2;
  const to = (<usize>M) << 2;
  const rows = M & ~3;
  const columns = N & ~3;
  for (let j0: i32 = 0; j0 < columns; j0 += 16) {
    const end = min(j0 + 16, columns);
    for (let i: i32 = 0; i < rows; i += 4) {
      for (let j = j0; j < end; j += 4) {
        const p = x + <usize>i * from + ((<usize>j) << 2);
        const q = y + <usize>j * to + ((<usize>i) << 2);
        const r0 = v128.load(p);
        const r1 = v128.load(p + from);
        const r2 = v128.load(p + from * 2);
        const r3 = v128.load(p + from * 3);
        const s0 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5);
        const s1 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7);
        const s2 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
        const s3 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
        v128.store(q, v128.shuffle<f64>(s0, s2, 0, 2));
        v128.store(q + to, v128.shuffle<f64>(s0, s2, 1, 3));
        v128.store(q + to * 2, v128.shuffle<f64>(s1, s3, 0, 2));
        v128.store(q + to * 3, v128.shuffle<f64>(s1, s3, 1, 3));
      }
    }
  }
  for (let i: i32 = 0; i < M; i++) {
    for (let j: i32 = i < rows ? columns : 0; j < N; j++) {
      store<f32>(y + <usize>j * to + ((<usize>i) << 2), load<f32>(x + <usize>i * from + ((<usize>j) << 2)));
    }
  }
}

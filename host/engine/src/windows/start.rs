//! Where windows begin.

/// Start of the window that holds `time` (Flink's `TimeWindow.getWindowStartWithOffset`).
pub(crate) fn window_start(time: i64, offset: i64, size: i64) -> i64 {
    time.saturating_sub(time.saturating_sub(offset).rem_euclid(size))
}

#[cfg(test)]
mod tests {
    use super::window_start;

    #[test]
    fn window_starts_are_flinks() {
        // Time, offset, size, start: also of Flink's TimeWindowTest.
        for (time, offset, size, start) in [
            (0, 0, 7, 0),
            (6, 0, 7, 0),
            (7, 0, 7, 7),
            (8, 0, 7, 7),
            (1, 3, 7, -4),
            (2, 3, 7, -4),
            (3, 3, 7, 3),
            (9, 3, 7, 3),
            (10, 3, 7, 10),
            (1, -2, 7, -2),
            (-2, -2, 7, -2),
            (3, -2, 7, -2),
            (4, -2, 7, -2),
            (7, -2, 7, 5),
            (12, -2, 7, 12),
            (-1, 0, 7, -7),
            (-7, 0, 7, -7),
            (-8, 0, 7, -14),
            (-14, 0, 7, -14),
            (i64::MIN, 0, 1000, i64::MIN),
            (i64::MAX, 0, 1, i64::MAX),
        ] {
            assert_eq!(window_start(time, offset, size), start, "{time} {offset} {size}");
        }
    }
}

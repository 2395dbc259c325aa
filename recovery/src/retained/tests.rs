use super::*;

/// A frame of one record: number and LSN are the same.
fn frame(number: u64, bytes: u64) -> RetainedFrame {
    let previous_crc = u32::try_from(number).unwrap() * 3;
    RetainedFrame { start: ChainStart { number, previous_crc, first_lsn: number }, bytes }
}

fn retained(frames: u64, bytes: u64, floor_lsn: u64) -> Retained {
    let mut retained = Retained::from(frame(1, 0).start);
    (1..=frames).for_each(|number| retained.push(frame(number, bytes)));
    retained.raise_floor(floor_lsn);
    retained
}

#[test]
fn a_slice_ends_at_the_floor_at_its_bounds_and_before_the_newest_frame() {
    let mib = 1 << 20;
    for (frames, bytes, floor_lsn, first) in [
        (0, 1, 9, None),
        (1, 1, 9, None),
        (9, 1, 0, None),
        (9, 1, 1, None),
        (9, 1, 2, Some(2)),
        (9, 1, 7, Some(7)),
        (9, 1, 9, Some(9)),
        (9, 1, 99, Some(9)),
        (600, 1, 599, Some(257)),
        (600, mib / 10, 599, Some(11)),
        (600, mib, 599, Some(2)),
        (600, 2 * mib, 599, Some(2)),
    ] {
        let slice = retained(frames, bytes, floor_lsn).slice();
        let expected = first.map(|number| frame(number, 0).start);
        assert_eq!(slice, expected, "{frames} frames of {bytes}, floor {floor_lsn}");
    }
}

#[test]
fn slices_follow_each_other_down_to_the_newest_frame_and_a_lower_floor_changes_nothing() {
    let mut retained = retained(1_000, 10, 2_000);
    retained.raise_floor(5);
    let mut starts = Vec::new();
    while let Some(start) = retained.slice() {
        starts.push(start.number);
        retained.dropped(start);
        assert_eq!(retained.frames(), 1_001 - start.number);
        assert_eq!(retained.bytes(), 10 * retained.frames());
    }
    assert_eq!(starts, [257, 513, 769, 1_000]);
}

#[test]
fn what_an_interrupted_slice_left_goes_first_and_alone() {
    let mut retained = retained(9, 1, 5);
    retained.remains_below();
    let start = retained.slice().unwrap();
    assert_eq!(start, frame(1, 0).start);
    retained.dropped(start);
    assert_eq!((retained.frames(), retained.slice()), (9, Some(frame(5, 0).start)));
}

/// Of two stores a kill may interrupt the slice in one only.
#[test]
fn what_an_interrupted_slice_left_in_either_store_goes() {
    for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
        let [mut one, mut other] = [retained(9, 1, 0), retained(9, 1, 0)];
        one.remains |= first;
        other.remains |= second;
        one.join(&other);
        let left = (first || second).then_some(frame(1, 0).start);
        assert_eq!(one.slice(), left, "{first} {second}");
    }
}

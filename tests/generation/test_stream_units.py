from generation.stream import MAX_UNITS, work_units


def test_units_cover_every_index_once_and_never_span_two_ranges():
    units = work_units([range(0, 300), range(1000, 1010)], batch_size=8)
    assert [index for unit in units for index in unit] == [*range(300), *range(1000, 1010)]
    assert [len(unit) for unit in units] == [256, 44, 10]


def test_a_billion_images_make_no_more_units_than_ray_data_can_take():
    units = work_units([range(10**9)], batch_size=32)
    assert len(units) <= MAX_UNITS
    assert sum(len(unit) for unit in units) == 10**9

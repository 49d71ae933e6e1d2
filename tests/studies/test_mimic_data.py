import pytest
import torch
from unreadable_files import noise_there

from lightning_effcx.studies.mimic_data import TeacherData


def teacher_data():
    x, z = torch.randn(6, 3), torch.randn(6, 2, dtype=torch.float64)
    return TeacherData(x, z, z.argmax(1), x[:, 0].argsort()[:4], x[:, 0].argsort()[4:])


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"PK\x03\x04" + b"\0" * 99])
def test_a_damaged_file_of_a_teacher_is_named_and_written_again(tmp_path, content):
    taught = teacher_data()
    file = tmp_path / f"lesson-{taught.digest}.pt"
    file.write_bytes(content)
    with (
        pytest.warns(UserWarning, match=r"lesson-\w+.pt is damaged, so it is written again\.$"),
        taught.saved(tmp_path) as kept,
    ):
        assert TeacherData.read(str(kept)).digest == taught.digest
    with taught.saved(tmp_path):
        pass  # without a warning


def test_a_file_of_a_teacher_that_cannot_be_read_is_named(tmp_path):
    noise_there(tmp_path / "lesson-1.pt")
    with pytest.raises(ValueError, match=r"lesson-1.pt holds no data of a teacher \(\w+\): del"):
        TeacherData.read(str(tmp_path / "lesson-1.pt"))

"""Lightning's automatic optimization hands each optimizer a closure; constraints hold there too."""

import warnings

import pytest
import torch

from projlab import constrain, expr

pytestmark = [pytest.mark.slow, pytest.mark.needs("lightning")]


def fit(model, data, folder, **settings):
    """By a trainer that shows and keeps nothing."""
    import lightning

    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )
    trainer.fit(model, data)


@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize("accumulate", [1, 2])
def test_automatic_optimization_keeps_the_equations(tmp_path, accumulate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.p3 = torch.nn.Parameter(torch.zeros(1))
            self.p4 = torch.nn.Parameter(torch.zeros(1))
            self.worst = 0.0

        def training_step(self, batch, index):
            return ((self.p3 - 1) ** 2 + (self.p4 - 2) ** 2).sum() + 0 * batch[0].sum()

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
            equation = expr(self.p3) - 2 * expr(self.p4) == 0
            self.handle = constrain(optimizer, equation, module=self)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / 301) ** 2)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def on_train_batch_end(self, outputs, batch, index):
            self.worst = max(self.worst, float(self.handle.residual().abs().max()))

    data = torch.utils.data.TensorDataset(torch.zeros(300 * accumulate, 1))
    model = Model()
    batches = torch.utils.data.DataLoader(data, batch_size=1)
    fit(
        model,
        batches,
        tmp_path,
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0,
    )
    assert model.handle.steps == 300
    assert model.worst <= 1e-6
    assert abs(float(model.p3.detach()) - 1.6) < 1e-3
    assert abs(float(model.p4.detach()) - 0.8) < 1e-3


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_manual_optimization_keeps_the_equations(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lightning

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.layer = torch.nn.Linear(4, 3)
            self.worst = 0.0

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward((self.layer(batch[0]) - 1).square().mean())
            optimizer.step()
            self.worst = max(self.worst, float(self.handle.residual().abs().max()))

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
            self.handle = constrain(optimizer, expr(self.layer.weight).sum(dim=1) == 1, module=self)
            return optimizer

    data = torch.utils.data.TensorDataset(torch.randn(40, 4))
    model = Model()
    fit(model, torch.utils.data.DataLoader(data, batch_size=8), tmp_path, max_epochs=2)
    assert model.handle.steps == 10
    assert model.worst <= 1e-6

import type { JSX } from "preact";
import { usePoll } from "../api/poll.ts";
import type { Breakers } from "../api/types.ts";
import { BreakerTable, EjectedTable } from "../parts/breakers.tsx";
import { Answer, Card, Empty, Head } from "../parts/page.tsx";

export function BreakersPage(): JSX.Element {
  const answer = usePoll<Breakers>("/api/v1/breakers", 5000);
  return (
    <>
      <Head title="Circuit breakers" />
      <Answer of={answer.value}>
        {(b) => (
          <>
            <Card title="Ejected endpoints" flush>
              {b.ejected.length > 0 ? <EjectedTable of={b.ejected} /> : <Empty title="No endpoint is ejected">A DestinationRule&rsquo;s outlierDetection takes out endpoints that fail, for a while.</Empty>}
            </Card>
            <Card title="Limits" flush>
              {b.breakers.length > 0 ? <BreakerTable of={b.breakers} /> : <Empty title="No limits are written">A DestinationRule&rsquo;s connectionPool bounds connections, waiting requests and retries.</Empty>}
            </Card>
          </>
        )}
      </Answer>
    </>
  );
}
